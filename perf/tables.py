"""A result as tables: for a terminal, and for a README."""
import statistics

from report import CPU


def _measured(result):
    return {case: about for case, about in result["cases"].items()
            if any(trial["case"] == case for trial in result["trials"])}


def _cell(figure, decimals, refusal=None):
    if figure is None:
        return refusal or "failed"
    return f"{figure['median']:,.{decimals}f} ({figure['min']:,.{decimals}f}-{figure['max']:,.{decimals}f})"


def _rows(result):
    """(case, what and in which unit, {contender: figure}, decimals, refusals), a row for each metric."""
    for case, about in _measured(result).items():
        figures = result["summary"][case]["figures"]
        for metric in about["metrics"]:
            row = {name: of[metric["name"]] for name, of in figures.items()}
            if metric["name"] != "errors" or any(figure and figure["max"] for figure in row.values()):
                yield case, metric["unit"], row, metric["decimals"], about["refusals"]


def _costs(result):
    """The same for CPU seconds."""
    for case, about in _measured(result).items():
        row = {name: of[CPU] for name, of in result["summary"][case]["figures"].items()}
        yield case, about["work_unit"], row, 3, about["refusals"]


def _pairs(result):
    """Whose figures are put in relation: everybody's to the first one's, and ours to everybody's before."""
    names = list(result["contenders"])
    ours = [name for name in names if result["contenders"][name]["ours"]]
    return [(name, names[0]) for name in names[1:]] \
        + [(name, other) for name in ours for other in names[1:names.index(name)]]


def header(result):
    """Lines on the machine, the runs, and what is missing."""
    machine = result["machine"]
    good = [trial["figures"] for trial in result["trials"] if "figures" in trial]
    lines = [f"{machine['cpus']} CPUs, {machine['cpu']}, virtualisation {machine['virtual'] or 'unknown'}, "
             f"Linux {machine['kernel']}; "
             f"commit {machine['commit'][:10]}{' with changes' if machine['modified'] else ''}",
             "; ".join(sorted({f"{run['rounds']} rounds of {run['seconds']} s" for run in result["runs"]}))
             + "; median (lowest-highest)"]
    if good:
        noise = [figures["background_cpu"] for figures in good]
        lines.append(f"other work on the machine between measurements: median {statistics.median(noise):.2f}, "
                     f"highest {max(noise):.2f} CPUs; stolen from it: {sum(f['steal_s'] for f in good):.1f} s in all")
        if statistics.median(noise) > 0.1 * machine["cpus"]:
            lines.append("THE MACHINE WAS BUSY: trust the ratios a little, and the figures not at all")
    for name, why in result["absent"].items():
        lines.append(f"not here: {name}: {why}")
    for name, why in result["left_out"].items():
        lines.append(f"LEFT OUT: {name}: {why}")
    failed = [trial for trial in result["trials"] if "failure" in trial]
    if failed:
        lines.append(f"FAILED TRIALS: {len(failed)}; the first: {failed[0]['contender']}, {failed[0]['case']}: "
                     f"{failed[0]['failure']}")
    return lines


def _aligned(rows):
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) if column == 0 else cell.rjust(width)
                       for column, (cell, width) in enumerate(zip(row, widths))).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def text(result):
    names = list(result["contenders"])

    def table(title, rows):
        return _aligned([[title, *names]] + [
            [f"{case}, {unit}", *(_cell(row[name], decimals, refusals.get(name)) for name in names)]
            for case, unit, row, decimals, refusals in rows])

    measured = _measured(result)
    ratios = [["ratios", *(case + ("" if about["metrics"][0]["higher"] else " (less is better)")
                           for case, about in measured.items())]]
    for above, below in _pairs(result):
        found = [result["summary"][case]["ratios"][above][below] for case in measured]
        ratios.append([f"{above} / {below}", *("-" if r is None else f"{r:.2f}" for r in found)])
    tables = [table("figures", _rows(result))] + ([_aligned(ratios)] if len(ratios) > 1 else []) \
        + [table("CPU s of the whole machine per", _costs(result))]
    return "\n".join(header(result)) + "\n\n" + "\n\n".join(tables)


def _line(cells):
    return "| " + " | ".join(cells) + " |"


def markdown(result):
    """Medians only, and the first farside's ratios; `text` has the rest."""
    names = list(result["contenders"])
    ours = next((name for name in names if result["contenders"][name]["ours"]), None)
    rivals = [name for name in ("nftables", "haproxy") if ours and name in names]
    first = {case: about["metrics"][0]["unit"] for case, about in result["cases"].items()}

    def short(figure, decimals):
        return "-" if figure is None else f"{figure['median']:,.{decimals}f}"

    lines = [_line(["", *names, *(f"{ours} / {rival}" for rival in rivals)]), _line(["---", *["---:"] * (len(names) + len(rivals))])]
    for case, unit, row, decimals, _ in _rows(result):
        found = [result["summary"][case]["ratios"][ours][rival] if unit == first[case] else None for rival in rivals]
        lines.append(_line([f"{case}, {unit}", *(short(row[name], decimals) for name in names),
                            *("" if r is None else f"{r:.2f}" for r in found)]))
    lines += ["", "CPU seconds of the whole machine (client, box, server and kernel) for each:", "",
              _line(["", *names]), _line(["---", *["---:"] * len(names)])]
    lines += [_line([f"{case}, {unit}", *(short(row[name], decimals) for name in names)])
              for case, unit, row, decimals, _ in _costs(result)]
    return "\n".join(lines)


BEGIN, END = "<!-- figures: written by perf/show -->", "<!-- end of figures -->"


def between_marks(document, figures):
    """The document with the figures between the two marks. ValueError if they are not there."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no place for figures: there have to be two lines, {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{figures}\n{END}{after}"
