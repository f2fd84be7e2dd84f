"""Held-out predictions: every bag by the model that did not see its patient, once per seed.

Shapes: N rows, C outputs (a logit per class, a hazard's logit per time bin, or one number).
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mhim_core.errors import InputError
from mhim_core.metrics.arrays import Floats
from mhim_core.metrics.outputs import softmax, survival_risk
from mhim_core.task import ClassTarget, SurvivalTarget, Target, ValueTarget


class FitId(NamedTuple):
    """Which fit of a run: its seed and its fold."""

    seed: int
    fold: int


class HeldOut(NamedTuple):
    """One bag by one model that did not see its patient."""

    model: str
    """mhim, mhim teacher or plain."""
    seed: int
    fold: int
    bag_id: str
    patient_id: str
    site: str | None
    target: Target
    logits: tuple[float, ...]
    """Classification: C logits; survival: C hazard logits; regression: one number, in the user's unit."""

    @property
    def fit(self) -> FitId:
        return FitId(self.seed, self.fold)

    @property
    def probabilities(self) -> tuple[float, ...]:
        """Classification: (C,)."""
        return tuple(class_probabilities([self])[0].tolist())

    @property
    def risk(self) -> float:
        """Survival: −Σ of the survival curve over the C bins, in −C … 0; higher for an earlier event."""
        return float(risks([self])[0])

    @property
    def value(self) -> float:
        """Regression: the prediction in the user's unit."""
        return self.logits[0]


Rows = Sequence[HeldOut]


def logits_of(rows: Rows) -> Floats:
    """(N, C)."""
    return np.array([row.logits for row in rows], dtype=np.float64)


def class_probabilities(rows: Rows, temperature: "float | Floats" = 1.0) -> Floats:
    """(N, C) of a classification; `temperature`: one or (N,)."""
    return softmax(logits_of(rows), temperature)


def risks(rows: Rows) -> Floats:
    """(N,) of discrete-time survival: −Σ_t S(t), S(t) = ∏ (1 − h) up to bin t, h = σ(logit)."""
    return survival_risk(logits_of(rows))


def class_targets(rows: Iterable[HeldOut]) -> list[int]:
    """The index of each bag's class, (N,); rows with other targets are left out."""
    return [row.target.class_index for row in rows if isinstance(row.target, ClassTarget)]


def value_targets(rows: Iterable[HeldOut]) -> list[float]:
    """Each bag's value in the user's unit, (N,); rows with other targets are left out."""
    return [row.target.value for row in rows if isinstance(row.target, ValueTarget)]


class FollowUp(NamedTuple):
    """(N,) each."""

    time: Floats
    event: NDArray[np.bool_]


def follow_up(targets: Iterable[Target]) -> FollowUp:
    """Of survival targets."""
    survival = [target for target in targets if isinstance(target, SurvivalTarget)]
    return FollowUp(
        np.array([target.time for target in survival], dtype=np.float64),
        np.array([target.event for target in survival], bool),
    )


def repeated_bags(rows: Iterable[HeldOut]) -> tuple[str, ...]:
    """The bags, sorted, that several folds of one model and seed hold out, as repeated random splits do."""
    counts = Counter((row.model, row.seed, row.bag_id) for row in rows)
    return tuple(sorted({bag_id for (_, _, bag_id), count in counts.items() if count > 1}))


def by_fit(rows: Iterable[HeldOut]) -> dict[FitId, list[HeldOut]]:
    """In the order of seeds and folds, each sorted by bag."""
    fits: dict[FitId, list[HeldOut]] = defaultdict(list)
    for row in sorted(rows, key=lambda held_out: (held_out.fit, held_out.bag_id)):
        fits[row.fit].append(row)
    return dict(fits)


def by_seed(rows: Iterable[HeldOut]) -> dict[int, list[HeldOut]]:
    """One model's rows by seed, each sorted by bag: the same bags with the same targets, once in each seed.

    Raises InputError naming a bag that is twice in a seed, is missing in one, or differs between seeds.
    """
    seeds: dict[int, dict[str, HeldOut]] = defaultdict(dict)
    for row in sorted(rows, key=lambda held_out: (held_out.seed, held_out.bag_id)):
        if row.bag_id in seeds[row.seed]:
            raise InputError(f"bag {row.bag_id} is held out twice by {row.model}, seed {row.seed}")
        seeds[row.seed][row.bag_id] = row
    first_seed = next(iter(seeds), 0)
    for seed, members in seeds.items():
        if differences := bag_differences(f"seed {first_seed}", seeds[first_seed], f"seed {seed}", members):
            raise InputError(f"the seeds do not hold out the same bags: {differences}")
    return {seed: list(members.values()) for seed, members in seeds.items()}


def by_fold(rows: Iterable[HeldOut]) -> dict[int, dict[int, list[HeldOut]]]:
    """One model's rows by fold, within which `by_seed`. Raises InputError as that does."""
    members: dict[int, list[HeldOut]] = defaultdict(list)
    for row in rows:
        members[row.fold].append(row)
    return {fold: by_seed(members[fold]) for fold in sorted(members)}


def bag_differences(name_a: str, rows_a: dict[str, HeldOut], name_b: str, rows_b: dict[str, HeldOut]) -> str:
    """Why two sets of rows (by bag) cannot be compared, in words; empty: they have the same bags and targets."""
    parts = []
    for name, rows, other_rows in ((name_a, rows_a, rows_b), (name_b, rows_b, rows_a)):
        if alone := sorted(rows.keys() - other_rows.keys()):
            parts.append(f"{len(alone)} only in {name} ({_few(alone)})")
    shared = sorted(rows_a.keys() & rows_b.keys())
    for field in ("target", "patient_id"):
        if differing := [bag for bag in shared if getattr(rows_a[bag], field) != getattr(rows_b[bag], field)]:
            bag = differing[0]
            value_a, value_b = getattr(rows_a[bag], field), getattr(rows_b[bag], field)
            parts.append(
                f"{len(differing)} of another {field.removesuffix('_id')} ({_few(differing)}; "
                f"{bag}: {_words(value_a)} in {name_a}, {_words(value_b)} in {name_b})"
            )
    return ", ".join(parts)


def _few(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def _words(value: object) -> str:
    if isinstance(value, ClassTarget):
        return f"class {value.class_index}"
    if isinstance(value, SurvivalTarget):
        return f"{'event' if value.event else 'censored'} at {value.time:g}"
    return f"{value.value:g}" if isinstance(value, ValueTarget) else str(value)
