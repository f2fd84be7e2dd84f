"""The table of a sweep: a row a configuration, ordered by validation alone. No torch.

The interval is of the mean over folds and seeds: whole folds are drawn with replacement, each with its seeds (with one
fold, seeds). Folds share training bags, so it says how much depends on the fold, and is no test of a difference.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mhim_core.metrics import BoundMetric, Estimate, Metric, estimate, mean_and_std
from mhim_core.train.halving import rank
from mhim_core.train.sweep_grid import Setting, Value
from mhim_core.train.sweep_plan import FitScore, FoldSeed, TrialOutcome, TrialStatus

if TYPE_CHECKING:
    import pyarrow

LOSS = "loss"
"""The name of the metric where the validation loss itself is what is compared: lower is better."""
_UNDEFINED = Estimate(None, None, None)
_BEFORE, _AFTER = (
    ("rank", "configuration"),
    (
        *("validation", "validation_low", "validation_high", "validation_std"),
        *("behind", "behind_low", "behind_high", "validation_loss", "num_fits"),
        *("mean_best_epoch", "num_epochs", "seconds", "stage_one_seconds", "status", "rung", "reason"),
    ),
)
"""The columns before and after those of the keys that vary; none has the name of a key of training."""
_TEXTS, _COUNTS = ("configuration", "status", "reason"), ("rank", "num_fits", "num_epochs", "rung")


@dataclass(frozen=True, kw_only=True)
class LeaderboardRow:
    """One configuration."""

    rank: int | None
    """From 1; None: it failed."""
    outcome: TrialOutcome
    setting: Setting
    validation: Estimate
    """The mean over folds and seeds of the metric that chooses the epoch, at that epoch."""
    validation_std: float | None
    """Standard deviation over folds and seeds."""
    behind: Estimate
    """How much worse than the first, as the mean over the same folds and seeds; of finished configurations."""
    seconds: float
    """Of its own fits by the clock; what an interruption threw away is not counted."""
    stage_one_seconds: float
    """Of the stage-1 fits that it took from another configuration or gave to others."""

    @property
    def mean_loss(self) -> float | None:
        return self.outcome.standing.loss if self.outcome.fits else None

    @property
    def mean_best_epoch(self) -> float | None:
        return mean_and_std([fit.best_epoch for fit in self.outcome.fits]).mean

    @property
    def num_epochs(self) -> int:
        """Trained in all its fits that are compared."""
        return sum(fit.epochs for fit in self.outcome.fits)

    def columns(self) -> dict[str, Value]:
        """The row of the table."""
        return {
            "rank": self.rank,
            "configuration": self.outcome.name,
            **self.setting,
            "validation": self.validation.value,
            "validation_low": self.validation.low,
            "validation_high": self.validation.high,
            "validation_std": self.validation_std,
            "behind": self.behind.value,
            "behind_low": self.behind.low,
            "behind_high": self.behind.high,
            "validation_loss": self.mean_loss,
            "num_fits": len(self.outcome.fits),
            "mean_best_epoch": self.mean_best_epoch,
            "num_epochs": self.num_epochs,
            "seconds": round(self.seconds, 3),
            "stage_one_seconds": round(self.stage_one_seconds, 3),
            "status": self.outcome.status.value,
            "rung": self.outcome.rung,
            "reason": self.outcome.reason,
        }


def build_leaderboard(
    outcomes: Sequence[TrialOutcome],
    settings: Mapping[str, Setting],
    metric_name: str,
    seconds: Mapping[str, float],
    stage_one_seconds: Mapping[str, float],
) -> list[LeaderboardRow]:
    """Finished configurations first, then those that were cut (the latest first), each by validation; then the failed.

    By name: `settings`, and the `seconds` of a configuration's own fits and of its stage 1. `metric_name`: of what the
    fits are compared by, or LOSS.
    """
    order = _order(outcomes)
    first = outcomes[order[0]] if order and outcomes[order[0]].status is TrialStatus.finished else None
    rows = []
    for position, index in enumerate(order, start=1):
        outcome = outcomes[index]
        values = _values(outcome, metric_name)
        rows.append(
            LeaderboardRow(
                rank=None if outcome.status is TrialStatus.failed else position,
                outcome=outcome,
                setting=settings[outcome.name],
                validation=_mean(values),
                validation_std=mean_and_std(list(values.values())).std,
                behind=_behind(outcome, first, metric_name),
                seconds=seconds.get(outcome.name, 0.0),
                stage_one_seconds=stage_one_seconds.get(outcome.name, 0.0),
            )
        )
    return rows


def winner(rows: Sequence[LeaderboardRow]) -> LeaderboardRow | None:
    """The first of those that finished; None: there is none."""
    return next((row for row in rows if row.outcome.status is TrialStatus.finished), None)


def column_names(keys: Sequence[str]) -> list[str]:
    """Of the table where these keys vary."""
    return [*_BEFORE, *keys, *_AFTER]


def leaderboard_schema(rows: Sequence[LeaderboardRow]) -> "pyarrow.Schema":
    """Of the Parquet table: the same types whatever became of the configurations."""
    import pyarrow as pa

    keys = list(rows[0].setting)
    types: dict[str, Any] = {key: _arrow_type([row.setting[key] for row in rows]) for key in keys}
    types |= dict.fromkeys(_TEXTS, pa.string()) | dict.fromkeys(_COUNTS, pa.int64())
    return pa.schema([(name, types.get(name, pa.float64())) for name in column_names(keys)])


def _arrow_type(values: Sequence[Value]) -> Any:
    import pyarrow as pa

    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int}:
        return pa.int64()
    return pa.float64() if kinds and kinds <= {int, float} else pa.string()


def _order(outcomes: Sequence[TrialOutcome]) -> list[int]:
    def of(status: TrialStatus, rung: int | None = None) -> list[int]:
        return [i for i, outcome in enumerate(outcomes) if (outcome.status, outcome.rung) == (status, rung)]

    def best_first(indices: list[int]) -> list[int]:
        return [indices[position] for position in rank([outcomes[index].standing for index in indices])]

    rungs = sorted({outcome.rung for outcome in outcomes if outcome.rung is not None}, reverse=True)
    cut = [index for rung in rungs for index in best_first(of(TrialStatus.cut, rung))]
    return [*best_first(of(TrialStatus.finished)), *cut, *of(TrialStatus.failed)]


def _values(outcome: TrialOutcome, metric_name: str) -> dict[FoldSeed, float]:
    """Of every fit that has one."""
    values = {FoldSeed(fit.seed, fit.fold): _value(fit, metric_name) for fit in outcome.fits}
    return {place: value for place, value in values.items() if value is not None}


def _value(fit: FitScore, metric_name: str) -> float | None:
    return fit.loss if metric_name == LOSS else fit.metric


def _mean(values: Mapping[FoldSeed, float]) -> Estimate:
    """With the interval over folds; none where there is one fold and one seed."""
    if not values:
        return _UNDEFINED
    value_N = np.array(list(values.values()), dtype=np.float64)
    folds, seeds = [str(place.fold) for place in values], [str(place.seed) for place in values]
    clusters = folds if len(set(folds)) > 1 else seeds
    bound = BoundMetric(
        Metric(float(value_N.mean())), lambda weights_RN: (weights_RN @ value_N) / weights_RN.sum(axis=1)
    )
    return estimate({"mean": bound}, clusters, replicates=2000 if len(set(clusters)) > 1 else 0)["mean"]


def _behind(outcome: TrialOutcome, first: TrialOutcome | None, metric_name: str) -> Estimate:
    if first is None or outcome.status is not TrialStatus.finished:
        return _UNDEFINED
    own, best = _values(outcome, metric_name), _values(first, metric_name)
    sign = -1.0 if metric_name == LOSS else 1.0
    return _mean({place: sign * (best[place] - own[place]) for place in own if place in best})
