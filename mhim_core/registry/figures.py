"""The figures of one or two models on the same bags, under the same draws of patients."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mhim_core.evaluation.held_out import HeldOut, Rows, class_probabilities, class_targets
from mhim_core.evaluation.row_metrics import bind_rows, metrics_of
from mhim_core.metrics import (
    BINARY_METRICS,
    BoundMetric,
    Estimate,
    Interval,
    bind_classification,
    percentile_interval,
    replicate_values,
)
from mhim_core.metrics.arrays import Floats
from mhim_core.registry.card import RegistryCard
from mhim_core.registry.ensemble import decide
from mhim_core.registry.gate_options import GateOptions

_SEED = 2021
"""Of the draws: a constant, so that a judgement made twice says the same."""


class Contender(NamedTuple):
    """A model as the gate sees it."""

    card: RegistryCard
    rows: Rows
    """Its prediction of every bag of the holdout, once: `ensemble.pooled_logits` of its members."""


class Gain(NamedTuple):
    """How much better the challenger is by one metric; negative: worse, whichever direction the metric has."""

    value: float | None
    low: float | None
    """Of the paired interval."""
    high: float | None
    num_undefined: int = 0
    """Replicates in which the difference had no value; they were dropped."""
    reason: str = ""
    """Why there is no value."""


class Figures:
    """Every metric of the task, of models that predicted the same bags; classes of two are decided by the threshold.

    Raises ValueError where a prediction is not finite. `contenders`: by role, of equal bags.
    """

    def __init__(self, contenders: Mapping[str, Contender], options: GateOptions) -> None:
        self.options = options
        rows = {role: sorted(contender.rows, key=lambda row: row.bag_id) for role, contender in contenders.items()}
        self.rows = next(iter(rows.values()))
        self.kind = next(iter(contenders.values())).card.task.kind
        self.bound = {role: _bind(rows[role], contender.card) for role, contender in contenders.items()}
        flat = {
            _key(role, name): bound_metric
            for role, metrics in self.bound.items()
            for name, bound_metric in metrics.items()
        }
        self.drawn = replicate_values(
            flat, [row.patient_id for row in self.rows], replicates=options.gate_replicates, seed=_SEED
        )

    @property
    def num_patients(self) -> int:
        return len({row.patient_id for row in self.rows})

    def estimate(self, role: str, metric: str) -> Estimate:
        """The metric with its patient-clustered interval."""
        value, reason = self.bound[role][metric].metric
        drawn = self.drawn.get(_key(role, metric))
        interval = Interval(None, None, 0) if drawn is None else percentile_interval(drawn, self.options.gate_level)
        return Estimate(value, interval.low, interval.high, interval.num_undefined, reason)

    def gain(self, metric: str) -> Gain:
        """Of the challenger over the champion, with its paired interval."""
        first, second = self.bound["champion"][metric].metric, self.bound["challenger"][metric].metric
        if first.value is None or second.value is None:
            return Gain(None, None, None, reason=first.reason or second.reason)
        sign = 1 if metrics_of(self.kind)[metric].higher_is_better else -1
        drawn: Floats = sign * (self.drawn[_key("challenger", metric)] - self.drawn[_key("champion", metric)])
        low, high, num_undefined = percentile_interval(drawn, self.options.gate_level)
        return Gain(sign * (second.value - first.value), low, high, num_undefined)

    def to_dict(self, metric: str) -> dict[str, Any]:
        """Plain JSON: {metric, num_bags, num_patients, champion: {metric: estimate}, challenger: …, gain}."""
        document: dict[str, Any] = {"metric": metric, "num_bags": len(self.rows), "num_patients": self.num_patients}
        for role, bound in self.bound.items():
            document[role] = {name: self.estimate(role, name)._asdict() for name in bound}
        if len(self.bound) > 1:
            document["gain"] = self.gain(metric)._asdict()
        return document


def site_of(contender: Contender, site: str) -> Contender:
    """The same model on one site's bags."""
    return contender._replace(rows=[row for row in contender.rows if row.site == site])


def is_finite(rows: Sequence[HeldOut]) -> bool:
    """Whether every logit is a number: neither NaN nor infinite."""
    return all(np.isfinite(row.logits).all() for row in rows)


def _key(role: str, metric: str) -> str:
    return f"{role}/{metric}"


def _bind(rows: Rows, card: RegistryCard) -> dict[str, BoundMetric]:
    if not is_finite(rows):
        raise ValueError("a prediction is not finite")
    bound = bind_rows(rows, card.task)
    bound.pop("uno_c", None)  # it needs the training patients' follow-up, which no card holds
    if len(card.classes) == 2:
        decided = [decide(probability, card) for probability in class_probabilities(rows).tolist()]
        names = [name for name, definition in metrics_of(card.task.kind).items() if definition.takes_classes]
        bound |= bind_classification(class_targets(rows), y_pred=decided, names=[*names, *BINARY_METRICS])
    return bound
