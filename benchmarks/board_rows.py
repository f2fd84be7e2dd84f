"""From cells to rows: means, paired differences and their intervals; what is not there is named. Pure functions.

A row enters only with as many whole seeds as its set asks for, and beside both controls. Pairs are of equal seed and
fold; their interval is over seeds (drawn sets), or over folds with the correction for shared training bags.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from board_cells import Cell
from board_methods import CONTROLS, PLAIN, Method
from board_sets import FIRST_SEED, BoardSet, Place
from intervals import Interval, paired_interval

STUDENT, PAIR = "student", "pair"
ALONE = "alone"
"""The mean of `quiet` and `loud`: what `all` leaves out are bags with loud evidence alone."""


class SetFacts(NamedTuple):
    """What a page says of a set."""

    name: str
    title: str
    group: str
    kinds: tuple[str, ...]
    min_seeds: int
    num_seeds: int
    folds: int
    test_over_train: float
    fit: str
    """How it is fitted, in words."""
    data: str
    """Digest of its files."""
    looked_at: bool
    """Whether the recipe `mhim` was chosen on it, or on other draws of it."""

    @classmethod
    def of(cls, bags: BoardSet, data: str) -> "SetFacts":
        fit, model = bags.fit, bags.model
        words = (
            f"D {model.embed_dim}, dropout {model.dropout:g}, {fit.epochs} epochs a stage, "
            f"learning rate {fit.learning_rate:g}, weight decay {fit.weight_decay:g}, the {fit.selection} epoch"
        )
        names = ("name", "title", "group", "kinds", "min_seeds", "num_seeds", "folds", "test_over_train", "looked_at")
        return cls(**{name: getattr(bags, name) for name in names}, fit=words, data=data)

    def places(self, num_seeds: int) -> list[Place]:
        return [Place(FIRST_SEED + seed, fold) for seed in range(num_seeds) for fold in range(self.folds)]


class Board(NamedTuple):
    """Everything that a page is made of."""

    sets: tuple[SetFacts, ...]
    methods: tuple[Method, ...]
    cells: tuple[Cell, ...]

    def to_plain(self) -> dict[str, Any]:
        return {
            "sets": [facts._asdict() for facts in self.sets],
            "methods": [list(method) for method in self.methods],
            "cells": [cell._asdict() for cell in self.cells],
        }

    @classmethod
    def from_plain(cls, raw: Mapping[str, Any]) -> "Board":
        return cls(
            tuple(SetFacts(**{**facts, "kinds": tuple(facts["kinds"])}) for facts in raw["sets"]),
            tuple(Method(*method) for method in raw["methods"]),
            tuple(Cell(**cell) for cell in raw["cells"]),
        )


class Row(NamedTuple):
    """One method on one set."""

    set: str
    method: str
    model: str
    """plain, student or pair: which of a cell's models."""
    auroc: dict[str, Interval]
    """By kind."""
    minus_plain: dict[str, Interval]
    """From the stage 1 of the same recipe, by kind; empty for what is itself plain."""
    control: str
    """The better of the two, by its test figures, which favours it."""
    minus_control: Interval | None
    """Of kind `all`; None for a control."""
    minus_student: dict[str, Interval]
    """Of a pair, from its student, by kind and for `ALONE` where there are kinds; empty for what is no pair."""
    masked: dict[str, float]
    seeds: int
    folds: int
    cpu_s: float
    """Of its cells; a stage 1 that others share is in the first of them."""
    date: str
    """Of the newest cell."""
    command: str

    @property
    def title(self) -> str:
        return f"{self.method}, pair" if self.model == PAIR else self.method


class Gap(NamedTuple):
    """A row that is not there."""

    set: str
    method: str
    reason: str


class Results(NamedTuple):
    """Rows in the order of sets and methods, and the gaps."""

    rows: tuple[Row, ...]
    gaps: tuple[Gap, ...]

    def row(self, set_name: str, method: str, model: str) -> Row | None:
        matching = (row for row in self.rows if (row.set, row.method, row.model) == (set_name, method, model))
        return next(matching, None)


def rows_of(board: Board) -> Results:
    """Every row that may enter, every one that may not with the reason."""
    rows: list[Row] = []
    gaps: list[Gap] = []
    for facts in board.sets:
        by_method = _by_method(board.cells, facts.name)
        seeds = {method.name: whole_seeds(by_method.get(method.name, {}), facts) for method in board.methods}
        control_seeds = min((seeds.get(name, 0) for name in CONTROLS), default=0)
        for method in board.methods:
            reason = _reason(seeds[method.name], control_seeds, len(by_method.get(method.name, {})), facts)
            if reason:
                gaps.append(Gap(facts.name, method.name, reason))
                continue
            for model in (PLAIN,) if method.recipe == PLAIN else (STUDENT, PAIR):
                rows.append(_row(facts, method, model, by_method, seeds[method.name], control_seeds))
    return Results(tuple(rows), tuple(gaps))


def _by_method(cells: Iterable[Cell], set_name: str) -> dict[str, dict[Place, Cell]]:
    by_method: dict[str, dict[Place, Cell]] = {}
    for cell in cells:
        if cell.set == set_name:
            by_method.setdefault(cell.method, {})[cell.place] = cell
    return by_method


def whole_seeds(cells: Mapping[Place, Cell], facts: SetFacts) -> int:
    """How many seeds, from the first on, have all their folds."""
    num = 0
    while all(place in cells for place in facts.places(num + 1)):
        num += 1
    return num


def _reason(seeds: int, control_seeds: int, num_cells: int, facts: SetFacts) -> str:
    """Why a row may not enter; empty: it may."""
    wanted = f"{facts.min_seeds} seed{'s' if facts.min_seeds > 1 else ''}"
    if facts.folds > 1:
        wanted += f" of {facts.folds} folds"
    if seeds < facts.min_seeds:
        return f"{num_cells} of {facts.min_seeds * facts.folds} cells ({wanted})"
    if control_seeds < facts.min_seeds:
        return f"its controls are not there with {wanted}"
    return ""


def _row(
    facts: SetFacts,
    method: Method,
    model: str,
    by_method: Mapping[str, Mapping[Place, Cell]],
    seeds: int,
    control_seeds: int,
) -> Row:
    places = facts.places(seeds)
    own = [by_method[method.name][place] for place in places]
    shared = facts.places(min(seeds, control_seeds))
    control = max(CONTROLS, key=lambda name: statistics.fmean(_all(by_method[name], shared, PLAIN)))

    def minus(which: str, kind: str) -> Interval:
        ours, theirs = ([_value(cell, name, kind) for cell in own] for name in (model, which))
        return paired_interval(ours, theirs, facts.test_over_train)

    def mean(kind: str) -> Interval:
        own_interval = paired_interval(
            [cell.auroc[model][kind] for cell in own], [0.0] * len(own), facts.test_over_train
        )
        return Interval(own_interval.mean, max(own_interval.low, 0.0), min(own_interval.high, 1.0))  # an AUROC's bounds

    kinds = (*facts.kinds, ALONE) if "loud" in facts.kinds else facts.kinds
    against = None
    if not method.is_control:
        ours, theirs = _all(by_method[method.name], shared, model), _all(by_method[control], shared, PLAIN)
        against = paired_interval(ours, theirs, facts.test_over_train)
    return Row(
        set=facts.name,
        method=method.name,
        model=model,
        auroc={kind: mean(kind) for kind in facts.kinds},
        minus_plain={} if model == PLAIN else {kind: minus(PLAIN, kind) for kind in facts.kinds},
        control=control,
        minus_control=against,
        minus_student={kind: minus(STUDENT, kind) for kind in kinds} if model == PAIR else {},
        masked={kind: statistics.fmean(cell.masked[kind] for cell in own) for kind in own[0].masked},
        seeds=seeds,
        folds=facts.folds,
        cpu_s=sum(cell.seconds for cell in own),
        date=max(cell.date for cell in own),
        command=f"python benchmarks/board.py --data DIR --out DIR --only {facts.name}:{method.name} --seeds {seeds}",
    )


def _value(cell: Cell, model: str, kind: str) -> float:
    scores = cell.auroc[model]
    return (scores["quiet"] + scores["loud"]) / 2 if kind == ALONE else scores[kind]


def _all(cells: Mapping[Place, Cell], places: Sequence[Place], model: str) -> list[float]:
    return [cells[place].auroc[model]["all"] for place in places]


class Tally(NamedTuple):
    """On how many sets a difference lies above 0 with its whole interval, below, or neither."""

    above: int
    below: int
    undecided: int

    @classmethod
    def of(cls, intervals: Iterable[Interval]) -> "Tally":
        listed = list(intervals)
        above, below = sum(own.low > 0 for own in listed), sum(own.high < 0 for own in listed)
        return cls(above, below, len(listed) - above - below)
