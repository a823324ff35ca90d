"""A result as tables: for a terminal, and for a README."""
import statistics
import typing

from report import CPU, group_of, names_of


RIVALS = {"forward": ("nftables", "haproxy"), "dns": ("gdnsd", "nsd", "knot", "pdns")}  # whom a README compares with


def _measured(result, group):
    return {case: about for case, about in result["cases"].items()
            if group_of(about) == group and any(trial["case"] == case for trial in result["trials"])}


def _groups(result):
    """Those of which something was measured, and their contenders."""
    return {group: names for group in RIVALS if (names := names_of(result, group)) and _measured(result, group)}


def _cell(figure, decimals, refusal=None):
    if figure is None:
        return refusal or "failed"
    return f"{figure['median']:,.{decimals}f} ({figure['min']:,.{decimals}f}-{figure['max']:,.{decimals}f})"


class Row(typing.NamedTuple):
    case: str
    unit: str
    decimals: int
    figures: dict  # by contender; None where there is none
    ratios: dict  # by contender, and by whom it is compared with
    refusals: dict


def _rows(result, group):
    """A row for each metric."""
    for case, about in _measured(result, group).items():
        summary = result["summary"][case]
        for metric in about["metrics"]:
            name = metric["name"]
            figures = {contender: of[name] for contender, of in summary["figures"].items()}
            if name != "errors" or any(figure and figure["max"] for figure in figures.values()):
                yield Row(case, metric["unit"], metric["decimals"], figures, summary["ratios"][name], about["refusals"])


def _costs(result, group):
    """The same for CPU seconds, without ratios."""
    for case, about in _measured(result, group).items():
        figures = {contender: of[CPU] for contender, of in result["summary"][case]["figures"].items()}
        yield Row(case, about["work_unit"], 3, figures, {}, about["refusals"])


def _pairs(result, names):
    """Whose figures are put in relation: everybody's to the first one's, and ours to everybody's before."""
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
    return "\n\n".join(["\n".join(header(result)), *(_text(result, group, names) for group, names in _groups(result).items())])


def _text(result, group, names):
    def table(title, rows):
        return _aligned([[title, *names]] + [
            [f"{row.case}, {row.unit}", *(_cell(row.figures[name], row.decimals, row.refusals.get(name)) for name in names)]
            for row in rows])

    measured = _measured(result, group)
    ratios = [["ratios", *(case + ("" if about["metrics"][0]["higher"] else " (less is better)")
                           for case, about in measured.items())]]
    for above, below in _pairs(result, names):
        found = [result["summary"][case]["ratios"][about["metrics"][0]["name"]][above][below]
                 for case, about in measured.items()]
        ratios.append([f"{above} / {below}", *("-" if r is None else f"{r:.2f}" for r in found)])
    tables = [table("figures", _rows(result, group))] + ([_aligned(ratios)] if len(ratios) > 1 else []) \
        + [table("CPU s of the whole machine per", _costs(result, group))]
    return "\n\n".join(tables)


def _line(cells):
    return "| " + " | ".join(cells) + " |"


def markdown(result, picture=None):
    """Medians only, and the first farside's ratios; `text` has the rest. `picture`: where `plot` has drawn it."""
    groups = _groups(result)
    lines = [line + "  " for line in header(result)] + [""]
    lines += [f"![{', '.join(case for group in groups for case in _measured(result, group))}]({picture})", ""] if picture else []
    return "\n".join(lines + [line for group, names in groups.items() for line in _markdown(result, group, names)][:-1])


def _markdown(result, group, names):
    ours = next((name for name in names if result["contenders"][name]["ours"]), None)
    rivals = [name for name in RIVALS[group] if ours and name in names]

    def short(row):
        return ("-" if row.figures[name] is None else f"{row.figures[name]['median']:,.{row.decimals}f}" for name in names)

    def table(head, rows):
        return [_line(["", *head]), _line(["---", *["---:"] * len(head)]), *(_line(row) for row in rows), ""]

    ratios = ((row, [row.ratios[ours][rival] for rival in rivals]) for row in _rows(result, group))
    lines = table([*names, *(f"{ours} / {rival}" for rival in rivals)], [
        [f"{row.case}, {row.unit}", *short(row), *("" if ratio is None else f"{ratio:.2f}" for ratio in found)]
        for row, found in ratios])
    lines += ["CPU seconds of the whole machine (client, box, server and kernel) for each:", ""]
    lines += table(names, [[f"{row.case}, {row.unit}", *short(row)] for row in _costs(result, group)])
    return lines


BEGIN, END = "<!-- figures: written by perf/show -->", "<!-- end of figures -->"


def between_marks(document, figures):
    """The document with the figures between the two marks. ValueError if they are not there."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no place for figures: there have to be two lines, {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{figures}\n{END}{after}"
