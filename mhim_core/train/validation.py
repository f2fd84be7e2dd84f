"""Validation after each epoch: plain inference on the validation bags, split over the ranks.

Shape suffixes: see `mhim_core.mil`; V validation bags.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mhim_core import metrics
from mhim_core.metrics.outputs import survival_risk
from mhim_core.mil.model import MilModel
from mhim_core.task import ClassTarget, SurvivalTarget, Target, TaskKind
from mhim_core.train.context import TrainContext
from mhim_core.train.epochs import EpochRecord
from mhim_core.train.feed import BagFeed
from mhim_core.train.model_file import predict_bag, predict_pack
from mhim_core.train.objective import task_loss
from mhim_core.train.packed_step import packs_of
from mhim_core.train.plan import LabelledBag
from mhim_core.train.sampler import share_of
from mhim_core.train.step import Bag


class Validation(NamedTuple):
    """Mean loss (unweighted) and the task's metric, the latter None where it is undefined."""

    loss: float
    metric: float | None


def validate(
    model: MilModel,
    bags: Sequence[LabelledBag],
    feed: BagFeed,
    append_recycled: bool,
    context: TrainContext,
    pack_instances: int = 0,
) -> Validation:
    """Collective; the same numbers on every rank. `pack_instances`: see `FitExecution`."""
    logits_VC = torch.zeros(len(bags), feed.task.num_outputs, dtype=feed.dtype, device=context.device)
    loss_V = torch.zeros(len(bags), dtype=feed.dtype, device=context.device)
    own = share_of(range(len(bags)), context.rank, context.world_size)
    index_of = iter(own)
    for pack in packs_of(feed.read_ahead([bags[index] for index in own]), pack_instances):
        for bag, logits_C in zip(pack, _predict(model, pack, append_recycled), strict=True):
            index = next(index_of)
            logits_VC[index] = logits_C
            loss_V[index] = task_loss(feed.task.kind, logits_C, bag.label)
    context.all_reduce([logits_VC, loss_V])
    loss = float(loss_V.double().mean())
    if not torch.isfinite(logits_VC).all():
        return Validation(float("nan"), None)
    return Validation(loss, _metric(feed.task.kind, logits_VC, [bag.target for bag in bags]))


def _predict(model: MilModel, bags: Sequence[Bag], append_recycled: bool) -> Sequence[Tensor]:
    """The logits of each bag."""
    if len(bags) == 1:
        return [predict_bag(model, bags[0].x_NF, append_recycled, bags[0].layout).logits_C]
    return list(predict_pack(model, [bag.x_NF for bag in bags], append_recycled, [bag.layout for bag in bags]))


METRIC_OF = {TaskKind.classification: "auroc", TaskKind.survival: "harrell_c", TaskKind.regression: "loss"}
"""The metric that selects the epoch, by task; the loss decides where it is undefined or tied."""


def _metric(kind: TaskKind, logits_VC: Tensor, targets: Sequence[Target]) -> float | None:
    logits_VC = logits_VC.double()
    try:
        if kind is TaskKind.classification:
            truth = [target.class_index for target in targets if isinstance(target, ClassTarget)]
            # by log-odds: of confident predictions the probabilities saturate and tie
            return metrics.auroc(truth, metrics.ranking_scores(logits_VC.cpu().numpy()))
        if kind is TaskKind.survival:
            known = [target for target in targets if isinstance(target, SurvivalTarget)]
            risk_V = survival_risk(logits_VC.cpu().numpy())
            return metrics.harrell_c([target.time for target in known], [target.event for target in known], risk_V)
    except metrics.UndefinedMetricError:
        pass
    return None


def is_better(record: EpochRecord, best: EpochRecord | None) -> bool:
    """Higher metric; where it ties or is undefined, the lower validation loss. An equal epoch is not better."""
    if best is None:
        return True
    metric, best_metric = record.validation_metric, best.validation_metric
    if metric is not None and best_metric is not None and metric != best_metric:
        return metric > best_metric
    return record.validation_loss < best.validation_loss
