"""From held-out rows to one prediction a bag, and the order from the worst to the best."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mhim_core.evaluation.held_out import HeldOut, Rows, by_fold
from mhim_core.report.data import ClassOutput, NumberOutput, Prediction, RiskOutput
from mhim_core.task import ClassTarget, SurvivalTarget, Task, ValueTarget


class PredictionRow(NamedTuple):
    """A prediction in the page's table."""

    prediction: Prediction
    error: float | None
    """None where the target is not known. Classification: 1 − the probability given to the true class; regression:
    predicted − true; survival: of the pairs with another bag whose order in time is known, the share that the risks
    order wrongly (equal risks: half), None where there is no such pair."""


def mean_predictions(rows: Rows, task: Task, num_slides: Mapping[str, int] | None = None) -> tuple[Prediction, ...]:
    """One model's held-out bags by id: the mean over seeds with its standard deviation, for each fold that holds the
    bag out.

    `num_slides`: of bags of several slides, by bag. Raises InputError if the seeds hold out different bags.
    """
    predictions = (
        Prediction(
            bag_id=members[0].bag_id,
            patient_id=members[0].patient_id,
            output=_output(members, task),
            fold=members[0].fold,
            site=members[0].site,
            num_slides=(num_slides or {}).get(members[0].bag_id, 1),
        )
        for seeds in by_fold(rows).values()
        for members in zip(*seeds.values(), strict=True)
    )
    return tuple(sorted(predictions, key=lambda prediction: (prediction.bag_id, prediction.fold)))


def _output(members: Sequence[HeldOut], task: Task) -> ClassOutput | RiskOutput | NumberOutput:
    """Of one bag's rows, one a seed."""
    target = members[0].target
    several = len(members) > 1
    if isinstance(target, ClassTarget):
        probability_SC = np.array([row.probabilities for row in members])
        mean_C = probability_SC.mean(axis=0)
        spread = tuple(probability_SC.std(axis=0).tolist()) if several else ()
        predicted = task.classes[int(mean_C.argmax())]
        return ClassOutput(task.classes[target.class_index], predicted, tuple(mean_C.tolist()), spread)
    values_S = np.array([row.risk if isinstance(target, SurvivalTarget) else row.value for row in members])
    mean, spread_of_one = float(values_S.mean()), float(values_S.std()) if several else None
    if isinstance(target, SurvivalTarget):
        return RiskOutput(target.time, target.event, mean, spread_of_one)
    assert isinstance(target, ValueTarget)
    return NumberOutput(target.value, mean, spread_of_one)


def sort_by_error(predictions: Sequence[Prediction], classes: Sequence[str] = ()) -> list[PredictionRow]:
    """Worst first; then bags without a target, the most probably positive (or the highest) first; ties by id."""
    rows = [PredictionRow(*pair) for pair in zip(predictions, errors_of(predictions, classes), strict=True)]
    return sorted(
        rows,
        key=lambda row: (
            row.error is None,
            -(abs(row.error) if row.error is not None else height(row.prediction)),
            -height(row.prediction),
            row.prediction.bag_id,
        ),
    )


def errors_of(predictions: Sequence[Prediction], classes: Sequence[str] = ()) -> list[float | None]:
    """(N,), as `PredictionRow.error`; all predictions are of one task."""
    outputs = [prediction.output for prediction in predictions]
    risks = [output for output in outputs if isinstance(output, RiskOutput)]
    if risks:
        return _misordered(risks)
    return [_error(output, classes) for output in outputs]


def height(prediction: Prediction) -> float:
    """The probability of the last class, the risk, or the number."""
    output = prediction.output
    if isinstance(output, ClassOutput):
        return output.probabilities[-1]
    return output.risk if isinstance(output, RiskOutput) else output.predicted


def _error(output: ClassOutput | RiskOutput | NumberOutput, classes: Sequence[str]) -> float | None:
    if isinstance(output, ClassOutput):
        known = output.label in classes
        return 1 - output.probabilities[classes.index(output.label)] if known and output.label is not None else None
    if isinstance(output, NumberOutput) and output.truth is not None:
        return output.predicted - output.truth
    return None


def _misordered(outputs: Sequence[RiskOutput]) -> list[float | None]:
    """A pair's order is known if the earlier time is an event's; at equal times an event comes before a censoring."""
    known = [output.time is not None and output.event is not None for output in outputs]
    time_N = np.array([output.time if output.time is not None else np.nan for output in outputs], dtype=np.float64)
    event_N = np.array([bool(output.event) for output in outputs]) & known
    risk_N = np.array([output.risk for output in outputs], dtype=np.float64)
    shares: list[float | None] = []
    for index in range(len(outputs)):
        if not known[index]:
            shares.append(None)
            continue
        # comparisons with an unknown time, NaN, are false
        own, same_N = time_N[index], time_N == time_N[index]
        outlive_N = event_N[index] & ((time_N > own) | (same_N & ~event_N))
        outlived_N = event_N & ((time_N < own) | (same_N & ~event_N[index]))
        wrong_N = np.where(outlive_N, risk_N > risk_N[index], risk_N < risk_N[index]) + 0.5 * (risk_N == risk_N[index])
        comparable_N = outlive_N | outlived_N
        shares.append(float(wrong_N[comparable_N].mean()) if comparable_N.any() else None)
    return shares
