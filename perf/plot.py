"""A result as a picture (SVG): a panel for each case, a bar for each contender, the spread of its rounds on it."""
from xml.sax.saxutils import escape

COLUMNS = 3
PANEL, GAP, BAR, LABEL, VALUE, HEAD = 330, 24, 16, 96, 74, 40
OURS, THEIRS, INK, FAINT = "#1f6f54", "#9aa5b1", "#1c2430", "#6b7480"


def _text(x, y, words, size=11, color=INK, anchor="start", weight="normal"):
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{color}" text-anchor="{anchor}" ' \
           f'font-weight="{weight}">{escape(words)}</text>'


def _panel(result, case, left, top):
    metric = result["cases"][case]["metrics"][0]
    figures = {name: of[metric["name"]] for name, of in result["summary"][case]["figures"].items() if of[metric["name"]]}
    highest = max((figure["max"] for figure in figures.values()), default=0) or 1
    room = PANEL - LABEL - VALUE
    way = "" if metric["higher"] else ", less is better"
    out = [_text(left, top + 12, case, 13, weight="bold"), _text(left, top + 27, metric["unit"] + way, 10, FAINT)]
    for row, (name, figure) in enumerate(figures.items()):
        y = top + HEAD + row * (BAR + 4)
        scaled = {key: room * figure[key] / highest for key in ("median", "min", "max")}
        color = OURS if result["contenders"][name]["ours"] else THEIRS
        out += [
            _text(left + LABEL - 6, y + 12, name, anchor="end"),
            f'<rect x="{left + LABEL}" y="{y}" width="{scaled["median"]:.1f}" height="{BAR}" fill="{color}"/>',
            f'<path d="M{left + LABEL + scaled["min"]:.1f} {y + BAR / 2}H{left + LABEL + scaled["max"]:.1f}" stroke="{INK}"/>',
            _text(left + LABEL + scaled["max"] + 5, y + 12, f"{figure['median']:,.{metric['decimals']}f}"),
        ]
    return out


def svg(result):
    cases = [case for case in result["cases"] if any(trial["case"] == case for trial in result["trials"])]
    height = HEAD + max((len(result["summary"][case]["figures"]) for case in cases), default=0) * (BAR + 4)
    rows = -(-len(cases) // COLUMNS)
    size = (COLUMNS * (PANEL + GAP) + GAP, rows * (height + GAP) + 2 * GAP)
    machine = result["machine"]
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" font-family="sans-serif">',
           f'<rect width="{size[0]}" height="{size[1]}" fill="#ffffff"/>']
    for number, case in enumerate(cases):
        row, column = divmod(number, COLUMNS)
        out += _panel(result, case, GAP + column * (PANEL + GAP), GAP + row * (height + GAP))
    out.append(_text(GAP, size[1] - 12, f"Medians of the rounds, lowest to highest as a line. {machine['cpus']} CPUs, {machine['cpu']}, "
                     f"Linux {machine['kernel']}; commit {machine['commit'][:10]}", 10, FAINT))
    return "\n".join([*out, "</svg>\n"])
