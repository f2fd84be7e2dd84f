"""docs/board.md of the board's results. Differences are written alike whether above or below 0."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from board_methods import CONTROLS, PLAIN
from board_rows import ALONE, PAIR, STUDENT, Board, Gap, Results, Row, SetFacts, Tally
from intervals import Interval

DEFAULT = "mhim"
MISSING = "missing"
PAIR_KINDS = ("all", "quiet", "loud", ALONE)
HEAD = """# The board of claims

Written by `python benchmarks/board.py --write` from [board.json](board.json), which holds every cell.
[board.html](board.html) is the same with pictures; [which_method.md](which_method.md) says what follows. How it
selects, counts and what it may claim: [ADR 31](adr/0031-board-of-claims.md).

**How to read it.** AUROC on test bags. `simlp` (the mean of a bag's instances, then an MLP) and `max` are the controls:
what does not beat the better of them has shown nothing. `abmil/plain` is an aggregator alone, `abmil/mhim` the student
that the recipe `mhim` trains behind it, and `abmil/mhim, pair` that student and its stage 1 joined
(`predict_with=pair`), which costs no further fit. − stage 1 is the difference from the stage 1 of the same recipe, seed
and fold (that of `mhim-v1` has another activation than the aggregator's own row); − control from the better control of
that set, chosen by its test figures, which favours it, on the seeds that both have. **Bold**: the 95 % interval
excludes 0, above or below alike. Intervals: of drawn sets Student's t over seeds, of folded ones over folds with the
correction for shared training bags (Nadeau & Bengio 2003). Each of many intervals covers its own difference alone: of
twenty that mean nothing one excludes 0.

Nothing was selected on a test bag, and nothing on validation either: all options were fixed beforehand, and every fit
keeps its last epoch. The fits are small, so that the board can be made on two cores in an evening: a claim about large
cohorts does not follow from it. † The recipe `mhim` was chosen on this set, or on other draws of it (seeds 0 to 9; the
board's begin at 10): its gains there are no independent evidence. `DIR` in a command: the folder of data, and one for
the cells, in which an interrupted command goes on.
"""


def number(value: float) -> str:
    """Three digits, without the zero before the point."""
    if not math.isfinite(value):
        return "–"
    return f"{value:.3f}".replace("0.", ".", 1)


def signed(value: float) -> str:
    """With its sign, also where it rounds to 0."""
    return ("+" if value >= 0 else "−") + number(abs(value))


def interval(own: Interval | None, of: Callable[[float], str] = number) -> str:
    """mean [low, high]."""
    return "" if own is None else f"{of(own.mean)} [{of(own.low)}, {of(own.high)}]"


def difference(own: Interval | None) -> str:
    """As `interval`; bold if it excludes 0."""
    text = interval(own, signed)
    return f"**{text}**" if own is not None and excludes_zero(own) else text


def excludes_zero(own: Interval) -> bool:
    return own.low > 0 or own.high < 0


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def render_markdown(board: Board, results: Results) -> str:
    """The page."""
    parts = [HEAD, _summary(board, results), _pair(board, results)]
    for group in dict.fromkeys(facts.group for facts in board.sets):
        parts.append(f"## {group[:1].upper()}{group[1:]}\n")
        parts += [_of_set(facts, results) for facts in board.sets if facts.group == group]
    parts += [_gaps(results.gaps), _cost(board, results)]
    return "\n".join(parts)


def aggregators(board: Board) -> list[str]:
    """That are no controls."""
    return list(dict.fromkeys(method.aggregator for method in board.methods if method.aggregator not in CONTROLS))


def recipes(board: Board) -> list[str]:
    return list(dict.fromkeys(method.recipe for method in board.methods if method.recipe != PLAIN))


def tallies(board: Board, results: Results) -> list[list[str]]:
    """Per aggregator and recipe: on how many sets student and pair lie above, below, neither."""
    lines = []
    for aggregator in aggregators(board):
        for recipe in recipes(board):
            rows = [row for row in results.rows if row.method == f"{aggregator}/{recipe}"]
            for model in (STUDENT, PAIR):
                own = [row for row in rows if row.model == model]
                if own:
                    plain = Tally.of(row.minus_plain["all"] for row in own)
                    control = Tally.of(row.minus_control for row in own if row.minus_control is not None)
                    lines.append([own[0].title, str(len(own)), *map(str, (*plain, *control))])
    return lines


def marked(facts: SetFacts) -> str:
    """The name, with a sign where the recipe was chosen on the set."""
    return f"{facts.name} †" if facts.looked_at else facts.name


def _summary(board: Board, results: Results) -> str:
    text = (
        "## In short\n\nOn how many sets a method lies above or below with its whole interval, on how many neither.\n\n"
    )
    header = ["method", "sets", "above stage 1", "below", "neither", "above the better control", "below", "neither"]
    text += table(header, tallies(board, results))
    for aggregator in aggregators(board):
        lines = [_summary_line(facts, aggregator, board, results) for facts in board.sets]
        if not any(line[1] != MISSING for line in lines):
            continue
        names = [f"{recipe} − stage 1" for recipe in recipes(board)]
        text += f"\n{aggregator}: AUROC, and differences in it (`all`)\n\n"
        text += table(["set", "better control", f"{aggregator}/plain", "plain − control", *names], lines)
    return text


def _summary_line(facts: SetFacts, aggregator: str, board: Board, results: Results) -> list[str]:
    plain = results.row(facts.name, f"{aggregator}/{PLAIN}", PLAIN)
    students = [results.row(facts.name, f"{aggregator}/{recipe}", STUDENT) for recipe in recipes(board)]
    gains = [MISSING if row is None else difference(row.minus_plain["all"]) for row in students]
    if plain is None:
        return [marked(facts), MISSING, MISSING, MISSING, *gains]
    control = results.row(facts.name, plain.control, PLAIN)
    assert control is not None  # or the plain row would not be there
    better = f"{plain.control} {number(control.auroc['all'].mean)}"
    return [marked(facts), better, number(plain.auroc["all"].mean), difference(plain.minus_control), *gains]


def pair_rows(board: Board, results: Results) -> list[tuple[str, Row]]:
    """Of the default recipe's pairs: aggregator and row."""
    return [
        (aggregator, row)
        for aggregator in aggregators(board)
        for facts in board.sets
        if (row := results.row(facts.name, f"{aggregator}/{DEFAULT}", PAIR)) is not None
    ]


PAIR_HEADER = ("sets", "difference", "rows", "above 0", "below", "neither", "mean")


def pair_tallies(board: Board, results: Results) -> list[list[str]]:
    """What the evidence says about the pair as the default recipe's prediction: a row is an aggregator on a set."""
    everywhere = [row for _, row in pair_rows(board, results)]
    fresh = {facts.name for facts in board.sets if not facts.looked_at}
    lines = []
    for scope, own in (("all", everywhere), ("without †", [row for row in everywhere if row.set in fresh])):
        students = [results.row(row.set, row.method, STUDENT) for row in own]
        differences = {
            f"pair − student, {kind}": [row.minus_student[kind] for row in own if kind in row.minus_student]
            for kind in PAIR_KINDS
        }
        differences["student − stage 1, all"] = [row.minus_plain["all"] for row in students if row is not None]
        differences["pair − stage 1, all"] = [row.minus_plain["all"] for row in own]
        for name, listed in differences.items():
            if listed:
                mean = signed(sum(each.mean for each in listed) / len(listed))
                lines.append([scope, name, str(len(listed)), *map(str, Tally.of(listed)), mean])
    return lines


def _pair(board: Board, results: Results) -> str:
    lines = []
    names = {facts.name: marked(facts) for facts in board.sets}
    for _, row in pair_rows(board, results):
        student = results.row(row.set, row.method, STUDENT)
        assert student is not None
        both = [difference(own.minus_plain["all"]) for own in (student, row)]
        lines.append(
            [names[row.set], row.method, *(difference(row.minus_student.get(kind)) for kind in PAIR_KINDS), *both]
        )
    header = [
        "set",
        "method",
        *(f"pair − student, {kind}" for kind in PAIR_KINDS),
        "student − stage 1",
        "pair − stage 1",
    ]
    return (
        f"## Should `{DEFAULT}` predict with the pair?\n\nOn how many rows (aggregator × set) the whole interval lies "
        f"above or below 0. `{ALONE}` is the mean of `quiet` and `loud`, the test bags with one kind of evidence; "
        "`all` has none with loud evidence alone.\n\n"
        f"{table(PAIR_HEADER, pair_tallies(board, results))}\n{table(header, lines)}"
    )


def _of_set(facts: SetFacts, results: Results) -> str:
    rows = [row for row in results.rows if row.set == facts.name]
    data = f"; data {facts.data}" if facts.data else ""
    text = f"### {marked(facts)}: {facts.title}\n\n{facts.fit}{data}.\n"
    if not rows:
        return text + "\nNo row yet: see what is missing below.\n"
    teacher = next((row for row in rows if row.masked), None)
    if teacher:
        loud, quiet = teacher.masked["loud"], teacher.masked["quiet"]
        text += (
            f"Of bags with both kinds of evidence, stage 1 ({teacher.method}) would mask {loud:.0%} of the loud and "
            f"{quiet:.0%} of the quiet instances.\n"
        )
    header = ["method", *facts.kinds, "− stage 1", "− control", "seeds × folds", "CPU s", "date", "`--only`"]
    return f"{text}\n{table(header, (_line(row) for row in rows))}"


def _line(row: Row) -> list[str]:
    return [
        row.title,
        *(interval(own) for own in row.auroc.values()),
        difference(row.minus_plain.get("all")),
        "" if row.minus_control is None else f"{difference(row.minus_control)} ({row.control})",
        f"{row.seeds} × {row.folds}",
        f"{row.cpu_s:.0f}",
        row.date,
        f"`{row.command.partition('--only ')[2]}`",
    ]


def _gaps(gaps: Sequence[Gap]) -> str:
    if not gaps:
        return "## Missing\n\nNothing.\n"
    by_method: dict[str, dict[str, list[str]]] = {}
    for gap in gaps:
        by_method.setdefault(gap.method, {}).setdefault(gap.reason, []).append(gap.set)
    text = f"## Missing\n\n{len(gaps)} rows are not there, since their cells have not been computed.\n\n"
    lines = [[name, _reasons(own)] for name, own in by_method.items()]
    return text + table(["method", "sets, and what is there"], lines)


def _reasons(by_reason: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{', '.join(sets)}: {reason}" for reason, sets in by_reason.items())


def _cost(board: Board, results: Results) -> str:
    seconds = sum(cell.seconds for cell in board.cells)
    dates = sorted({cell.date for cell in board.cells})
    when = f", {dates[0]} to {dates[-1]}" if dates else ""
    return (
        f"## Cost\n\n{len(board.cells)} cells, {seconds / 3600:.1f} CPU hours on one thread each{when}. "
        "Command of a row: `python benchmarks/board.py --data DIR --out DIR --only …`, with its last column.\n"
    )
