"""Medians, spreads and ratios of trials; the JSON file that keeps them, and several of these as one.

A ratio is the median of the ratios within one round: both of its figures were measured within seconds of each other,
so that a machine that drifts during the run does not show as a difference between contenders."""
import dataclasses
import json
import math
import os
import statistics
import tempfile

CPU = "cpu_per_work"


def spread(values):
    """{"median", "min", "max", "values"} or None when there is nothing to speak of."""
    if not values:
        return None
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "values": values}


def percentile(ordered, percent):
    """The smallest of the ordered values that at least so many percent are not above."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def _by_round(trials, case, contender, metric):
    return {trial["round"]: trial["figures"][metric] for trial in trials
            if trial["case"] == case and trial["contender"] == contender and "figures" in trial}


def ratio(trials, case, metric, above, below):
    """Median over the rounds of above/below; None where no round has both, or where below is zero."""
    upper, lower = (_by_round(trials, case, name, metric) for name in (above, below))
    pairs = [upper[number] / lower[number] for number in upper if lower.get(number)]
    return statistics.median(pairs) if pairs else None


def assemble(args, cases, able, absent, unable, trials, started, machine):
    """What the JSON file holds, of one run."""
    refusals = {case.name: {contender.name: why for contender in able
                            if case.group == contender.group and (why := case.refuses(contender))} for case in cases}
    expected = sum(args.rounds for case in cases for contender in able if case.takes(contender))
    return summarized({
        "runs": [{"started": started.isoformat(timespec="seconds"), "rounds": args.rounds, "seconds": args.seconds}],
        "machine": machine,
        "complete": not unable and len(trials) == expected,
        "absent": absent,
        "left_out": unable,
        "cases": {case.name: {"title": case.title, "group": case.group, "work_unit": case.work_unit, "refusals": refusals[case.name],
                              "metrics": [dataclasses.asdict(metric) for metric in case.metrics]} for case in cases},
        "contenders": {contender.name: {"title": contender.title, "ours": contender.ours, "group": contender.group} for contender in able},
        "trials": trials,
    })


def group_of(about):
    """Of a case or a contender of a result; those of before there were groups forward."""
    return about.get("group", "forward")


def names_of(result, group):
    """The contenders of a group, in their order."""
    return [name for name, about in result["contenders"].items() if group_of(about) == group]


def summarized(result):
    """`result` with the summary of its trials, for those who do not want to do the arithmetic themselves."""
    trials, summary = result["trials"], {}
    for case, about in result["cases"].items():
        names = names_of(result, group_of(about))
        metrics = [metric["name"] for metric in about["metrics"]]
        figures = {name: {metric: spread(list(_by_round(trials, case, name, metric).values()))
                          for metric in [*metrics, "cpu_s", CPU]} for name in names}
        ratios = {metric: {above: {below: ratio(trials, case, metric, above, below)
                                   for below in names if below != above} for above in names} for metric in metrics}
        summary[case] = {"figures": figures, "ratios": ratios}
    return {**result, "summary": summary}


def merged(results):
    """Several runs as one. ValueError if they are not of one commit on one machine. Rounds stay apart, for ratios are of
    one round."""
    first, *others = results
    for key in ("cpu", "cpus", "kernel", "commit"):
        if any(other["machine"][key] != first["machine"][key] for other in others):
            found = ", ".join(sorted({str(result["machine"][key]) for result in results}))
            raise ValueError(f"these runs do not belong together: different {key}: {found}")
    whole = {key: {} for key in ("absent", "left_out", "cases", "contenders")}
    runs, trials, offset = [], [], 0
    for result in results:
        runs += result["runs"]
        for key, gathered in whole.items():
            for name, value in result[key].items():
                gathered.setdefault(name, value)
        trials += [{**trial, "round": trial["round"] + offset} for trial in result["trials"]]
        offset = max([offset, *(trial["round"] for trial in trials)])
    machine = {**first["machine"], "modified": any(result["machine"]["modified"] for result in results),
               "versions": {name: version for result in results for name, version in result["machine"]["versions"].items()}}
    return summarized({"runs": runs, "machine": machine, "complete": all(result["complete"] for result in results), **whole,
                       "trials": trials})


def write(text, path):
    """Whole or not at all: an interrupted write must not leave half a file under the name asked for."""
    directory = os.path.dirname(os.path.abspath(path))
    with tempfile.NamedTemporaryFile("w", dir=directory, delete=False) as out:
        out.write(text)
    os.chmod(out.name, 0o644)
    os.replace(out.name, path)


def write_json(result, path):
    write(json.dumps(result, indent=1) + "\n", path)
