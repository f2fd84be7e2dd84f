"""docs/board.html: the board's differences as pictures, in one file without scripts. A function of the board."""

from collections.abc import Iterable, Sequence
from html import escape

from board_markdown import (
    PAIR_HEADER,
    difference,
    excludes_zero,
    interval,
    marked,
    number,
    pair_tallies,
    signed,
    tallies,
)
from board_rows import ALONE, PAIR, Board, Results, Row, SetFacts
from intervals import Interval

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2126; max-width: 1260px; margin: 2em auto; padding: 0 1.2em; }
h1 { font-size: 1.7em; } h2 { margin-top: 2.2em; border-bottom: 1px solid #d5dae0; } h3 { margin: 1.8em 0 .2em; }
p.note { color: #59636e; margin: .2em 0 .8em; } code { font-size: .85em; }
table { border-collapse: collapse; font-size: .87em; font-variant-numeric: tabular-nums; margin: .6em 0; }
th { text-align: left; font-weight: 600; border-bottom: 1px solid #b8c0c9; padding: .25em .8em .25em 0; }
td { padding: .18em .8em .18em 0; border-bottom: 1px solid #edf0f3; white-space: nowrap; }
td.wrap { white-space: normal; } tr.control td { background: #f5f7f9; }
svg { display: block; } .above { fill: #0b6e4f; stroke: #0b6e4f; } .below { fill: #b3261e; stroke: #b3261e; }
.neither { fill: #6b7680; stroke: #6b7680; } .axis { stroke: #b8c0c9; stroke-width: 1; }
b.above { color: #0b6e4f; } b.below { color: #b3261e; }
"""
INTRODUCTION = """
<p>Every method on every set: AUROC on test bags, differences paired by seed and fold, 95 % intervals. Green: the whole
interval lies above 0; red: below; grey: neither. Losses are drawn as gains are. Nothing was selected on test bags. The
tables with every command are in board.md beside this page, the cells in board.json.</p>
<p class=note>Research use only. simlp: the mean of a bag's instances, then an MLP; max: the maximum of embedded
instances. Each recipe's student, and its pair with stage 1. − control: from the better of the two on that set. † The
recipe mhim was chosen on this set or on other draws of it.</p>
"""
WIDTH, HEIGHT, PAD = 140, 16, 6


def render_html(board: Board, results: Results) -> str:
    """The page."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>mhim: the board of claims</title>",
        f"<style>{STYLE}</style><h1>The board of claims</h1>",
        INTRODUCTION,
        "<h2>In short</h2>",
        _table(
            ["method", "sets", "above stage 1", "below", "neither", "above the better control", "below", "neither"],
            ([escape(cell) for cell in line] for line in tallies(board, results)),
        ),
        "<h2>Should the default recipe predict with the pair?</h2>",
        f"<p class=note>{ALONE}: the mean of the figures of bags with quiet and with loud evidence alone.</p>",
        _table(PAIR_HEADER, ([escape(cell) for cell in line] for line in pair_tallies(board, results))),
    ]
    for group in dict.fromkeys(facts.group for facts in board.sets):
        parts.append(f"<h2>{escape(group[:1].upper() + group[1:])}</h2>")
        parts += [_of_set(facts, results) for facts in board.sets if facts.group == group]
    parts.append(_gaps(results))
    return "\n".join(parts) + "\n"


def _of_set(facts: SetFacts, results: Results) -> str:
    rows = [row for row in results.rows if row.set == facts.name]
    head = f"<h3>{escape(facts.title)}</h3><p class=note><code>{marked(facts)}</code> · {escape(facts.fit)}</p>"
    if not rows:
        return f"{head}<p>No row yet.</p>"
    differences = [row.minus_plain["all"] for row in rows if row.minus_plain]
    differences += [row.minus_control for row in rows if row.minus_control is not None]
    reach = max((max(abs(own.low), abs(own.high)) for own in differences), default=0.0)
    reach = min(max(reach, 0.05), 0.6)
    lines = [_cells(row, reach) for row in rows]
    kinds = [f"AUROC {kind}" for kind in facts.kinds]
    scale = f" (± {number(reach)})"
    header = ["method", *kinds, "− stage 1", f"picture{scale}", "− control", f"picture{scale}", "seeds × folds", "date"]
    return head + _table(header, lines, [row.minus_control is None for row in rows])


def _cells(row: Row, reach: float) -> list[str]:
    name = escape(row.title) if row.model != PAIR else f"{escape(row.method)}, <i>pair</i>"
    figures = [interval(row.auroc["all"]), *(number(own.mean) for kind, own in row.auroc.items() if kind != "all")]
    plain = row.minus_plain.get("all")
    return [
        name,
        *figures,
        _coloured(plain),
        _picture(plain, reach),
        "" if row.minus_control is None else f"{_coloured(row.minus_control)} ({row.control})",
        _picture(row.minus_control, reach),
        f"{row.seeds} × {row.folds}",
        row.date,
    ]


def _class(own: Interval) -> str:
    if not excludes_zero(own):
        return "neither"
    return "above" if own.low > 0 else "below"


def _coloured(own: Interval | None) -> str:
    if own is None:
        return ""
    text = escape(interval(own, signed))
    return f'<b class="{_class(own)}">{text}</b>' if excludes_zero(own) else text


def _picture(own: Interval | None, reach: float) -> str:
    """The interval on an axis from -reach to reach; what reaches farther is cut at the edge."""
    if own is None:
        return ""

    def at(value: float) -> float:
        return round(PAD + (min(max(value, -reach), reach) / reach + 1) / 2 * (WIDTH - 2 * PAD), 1)

    middle, name = HEIGHT / 2, _class(own)
    return (
        f'<svg width={WIDTH} height={HEIGHT} role=img aria-label="{escape(difference(own))}">'
        f"<line class=axis x1={at(0)} x2={at(0)} y1=0 y2={HEIGHT} />"
        f"<line class={name} x1={at(own.low)} x2={at(own.high)} y1={middle} y2={middle} stroke-width=2 />"
        f"<circle class={name} cx={at(own.mean)} cy={middle} r=3.5 /></svg>"
    )


def _gaps(results: Results) -> str:
    if not results.gaps:
        return "<h2>Missing</h2><p>Nothing.</p>"
    lines = [[escape(gap.set), escape(gap.method), escape(gap.reason)] for gap in results.gaps]
    text = f"<p>{len(lines)} rows are not there, since their cells have not been computed.</p>"
    return f"<h2>Missing</h2>{text}{_table(['set', 'method', 'what is there'], lines)}"


def _table(header: Sequence[str], lines: Iterable[Sequence[str]], controls: Sequence[bool] = ()) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = []
    for number_of_line, line in enumerate(lines):
        is_control = number_of_line < len(controls) and controls[number_of_line]
        cells = "".join(f"<td>{cell}</td>" for cell in line)
        body.append(f"<tr{' class=control' if is_control else ''}>{cells}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
