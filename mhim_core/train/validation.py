"""How a fit is judged between epochs: on validation bags, by plain inference, split over the ranks.

Shape suffixes: see `mhim_core.mil`; V validation bags.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from mhim_core import metrics
from mhim_core.mil.losses import classification_loss
from mhim_core.mil.model import MilModel
from mhim_core.train.checkpoint import predict_bag
from mhim_core.train.context import TrainContext
from mhim_core.train.epochs import EpochRecord
from mhim_core.train.feed import BagFeed
from mhim_core.train.plan import LabelledBag
from mhim_core.train.sampler import share_of


class Validation(NamedTuple):
    """Mean loss (unweighted) and AUROC, the latter None where it is undefined."""

    loss: float
    auroc: float | None


def validate(
    model: MilModel, bags: Sequence[LabelledBag], feed: BagFeed, append_recycled: bool, context: TrainContext
) -> Validation:
    """Collective; the same numbers on every rank."""
    logits_VC = torch.zeros(len(bags), feed.num_classes, dtype=feed.dtype, device=context.device)
    loss_V = torch.zeros(len(bags), dtype=feed.dtype, device=context.device)
    for index in share_of(range(len(bags)), context.rank, context.world_size):
        bag = feed.read(bags[index])
        logits_VC[index] = predict_bag(model, bag.x_NF, append_recycled).logits_C
        loss_V[index] = classification_loss(logits_VC[index], bag.label_index)
    context.all_reduce([logits_VC, loss_V])
    # in float64, so that confident predictions do not saturate and tie
    probability_VC = logits_VC.double().softmax(dim=1).cpu().numpy()
    labels = [bag.label_index for bag in bags]
    loss = float(loss_V.double().mean())
    if not torch.isfinite(logits_VC).all():
        return Validation(float("nan"), None)
    try:
        return Validation(loss, metrics.auroc(labels, probability_VC))
    except metrics.UndefinedMetricError:
        return Validation(loss, None)


def is_better(record: EpochRecord, best: EpochRecord | None) -> bool:
    """Higher AUROC; where it ties or is undefined, the lower validation loss. An equal epoch is not better."""
    if best is None:
        return True
    auroc, best_auroc = record.validation_auroc, best.validation_auroc
    if auroc is not None and best_auroc is not None and auroc != best_auroc:
        return auroc > best_auroc
    return record.validation_loss < best.validation_loss
