"""Medians, spreads and ratios; the tables on stdout and the JSON file.

A ratio is the median of the ratios within one round: both of its figures were measured within seconds of each other,
so that a machine that drifts during the run does not show as a difference between contenders."""
import json
import os
import statistics
import tempfile

CPU = "cpu_per_work"


def spread(values):
    """{"median", "min", "max", "values"} or None when there is nothing to speak of."""
    if not values:
        return None
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "values": values}


def _by_round(trials, case, contender, metric):
    return {trial["round"]: trial["figures"][metric] for trial in trials
            if trial["case"] == case and trial["contender"] == contender and "figures" in trial}


def _ratio(trials, case, metric, above, below):
    """Median over the rounds of above/below; None where no round has both, or where below is zero."""
    upper, lower = (_by_round(trials, case, name, metric) for name in (above, below))
    pairs = [upper[number] / lower[number] for number in upper if lower.get(number)]
    return statistics.median(pairs) if pairs else None


def assemble(args, able, unable, trials, started, machine):
    names = [contender.name for contender in able]
    summary, expected = {}, 0
    for case in args.chosen:
        figures = {name: {metric: spread(list(_by_round(trials, case.name, name, metric).values()))
                          for metric in [m.name for m in case.metrics] + ["cpu_s", CPU]} for name in names}
        ratios = {above: {below: _ratio(trials, case.name, case.metrics[0].name, above, below)
                          for below in names if below != above} for above in names}
        refusals = {contender.name: why for contender in able if (why := case.refuses(contender))}
        expected += args.rounds * (len(able) - len(refusals))
        summary[case.name] = {"title": case.title, "unit": case.metrics[0].unit, "work_unit": case.work_unit,
                              "figures": figures, "ratios": ratios, "refusals": refusals}
    return {"started": started.isoformat(timespec="seconds"), "machine": machine,
            "complete": not unable and len(trials) == expected,
            "options": {"modes": args.modes, "rounds": args.rounds, "seconds": args.seconds, "quick": args.quick},
            "left_out": unable, "trials": trials, "summary": summary}


def write(result, path):
    """Whole or not at all: an interrupted write must not leave half a file under the name asked for."""
    directory = os.path.dirname(os.path.abspath(path))
    with tempfile.NamedTemporaryFile("w", dir=directory, delete=False) as out:
        json.dump(result, out, indent=1)
        out.write("\n")
    os.chmod(out.name, 0o644)
    os.replace(out.name, path)


def _table(rows):
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) if column == 0 else cell.rjust(width)
                       for column, (cell, width) in enumerate(zip(row, widths))).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def _cell(figure, decimals, refusal=None):
    if figure is None:
        return refusal or "failed"
    return f"{figure['median']:,.{decimals}f} ({figure['min']:,.{decimals}f}-{figure['max']:,.{decimals}f})"


def _header(result):
    machine, options = result["machine"], result["options"]
    good = [trial["figures"] for trial in result["trials"] if "figures" in trial]
    lines = [f"{machine['cpus']} CPUs, {machine['cpu']}, virtualisation {machine['virtual'] or 'unknown'}, "
             f"Linux {machine['kernel']}; "
             f"commit {machine['commit'][:10]}{' with changes' if machine['modified'] else ''}",
             f"{options['rounds']} rounds of {options['seconds']} s; median (lowest-highest)"]
    if good:
        noise = [figures["background_cpu"] for figures in good]
        lines.append(f"other work on the machine between measurements: median {statistics.median(noise):.2f}, "
                     f"highest {max(noise):.2f} CPUs; stolen from it: {sum(f['steal_s'] for f in good):.1f} s in all")
        if statistics.median(noise) > 0.1 * machine["cpus"]:
            lines.append("THE MACHINE WAS BUSY: trust the ratios a little, and the figures not at all")
    for name, why in result["left_out"].items():
        lines.append(f"LEFT OUT: {name}: {why}")
    for case, summary in result["summary"].items():
        for name, why in summary["refusals"].items():
            lines.append(f"not in {case}: {name}: {why}")
    failed = [trial for trial in result["trials"] if "failure" in trial]
    if failed:
        lines.append(f"FAILED TRIALS: {len(failed)}; the first: {failed[0]['contender']}, {failed[0]['case']}: "
                     f"{failed[0]['failure']}")
    return lines


def render(result, chosen, able):
    names = [contender.name for contender in able]
    measured = [case for case in chosen if any(trial["case"] == case.name for trial in result["trials"])]
    rows = [["figures", *names]]
    costs = [["CPU ms of the whole machine per", *names]]
    for case in measured:
        figures, refusals = (result["summary"][case.name][key] for key in ("figures", "refusals"))
        for metric in case.metrics:
            if metric.name == "errors" and not any(f["errors"] and f["errors"]["max"] for f in figures.values()):
                continue
            cells = (_cell(figures[name][metric.name], metric.decimals, refusals.get(name)) for name in names)
            rows.append([f"{case.name}, {metric.unit}", *cells])
        in_ms = [figures[n][CPU] and {k: figures[n][CPU][k] * 1e3 for k in ("median", "min", "max")} for n in names]
        cells = (_cell(figure, 1, refusals.get(name)) for name, figure in zip(names, in_ms))
        costs.append([f"{case.name}, {case.work_unit}", *cells])

    ours = [contender.name for contender in able if contender.ours]
    pairs = [(name, names[0]) for name in names[1:]]
    pairs += [(name, other) for name in ours for other in names[1:names.index(name)]]
    ratios = [["ratios", *(case.name + ("" if case.metrics[0].higher else " (less is better)") for case in measured)]]
    for above, below in pairs:
        found = [result["summary"][case.name]["ratios"][above][below] for case in measured]
        ratios.append([f"{above} / {below}", *("-" if r is None else f"{r:.2f}" for r in found)])

    tables = [_table(rows)] + ([_table(ratios)] if pairs else []) + [_table(costs)]
    return "\n".join(_header(result)) + "\n\n" + "\n\n".join(tables)
