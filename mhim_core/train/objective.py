"""The training objective of every task: a bag's label as tensors, and its loss.

Shape suffixes: see `mhim_core.mil`.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mhim_core.mil.losses import classification_loss, regression_loss, survival_loss
from mhim_core.task import ClassTarget, FittedTask, SurvivalTarget, Target, TaskKind


class Label(NamedTuple):
    """One bag's target on the worker's device; each task reads the fields it needs."""

    category: Tensor
    """int64 scalar: the class, or the time bin."""
    censored: Tensor
    """bool scalar: survival without an event."""
    value: Tensor
    """Scalar in the fit's precision: the standardised target of a regression."""
    weight: Tensor
    """Weight of the task loss, a scalar in the fit's precision; 1 unless classes are weighted."""


def make_label(
    target: Target, task: FittedTask, dtype: torch.dtype, device: torch.device | str = "cpu", weight: float = 1.0
) -> Label:
    """The target in the task's bins and scale."""
    category, censored, value = 0, False, 0.0
    if isinstance(target, ClassTarget):
        category = target.class_index
    elif isinstance(target, SurvivalTarget):
        category, censored = task.time_bin(target.time), not target.event
    else:
        value = task.standardise(target.value)
    # filled on the device: a tensor of a number would be copied there, and the host would wait
    return Label(
        torch.full((), category, device=device),
        torch.full((), censored, device=device),
        torch.full((), value, dtype=dtype, device=device),
        torch.full((), weight, dtype=dtype, device=device),
    )


def task_loss(kind: TaskKind, logits_C: Tensor, label: Label) -> Tensor:
    """The loss of one bag, unweighted."""
    if kind is TaskKind.survival:
        return survival_loss(logits_C, label.category, label.censored)
    if kind is TaskKind.regression:
        return regression_loss(logits_C, label.value)
    return classification_loss(logits_C, label.category)


def class_of(kind: TaskKind, label: Label) -> Tensor | None:
    """The class index, for the losses that need one; None where the task has no classes."""
    return label.category if kind is TaskKind.classification else None


def class_weights(targets: Sequence[Target], num_classes: int) -> list[float]:
    """w_y ∝ 1/frequency, scaled once so that its mean over these training bags is 1; 0 for a class without bags."""
    counts = Counter(target.class_index for target in targets if isinstance(target, ClassTarget))
    present = len(counts)
    return [len(targets) / (present * counts[index]) if counts[index] else 0.0 for index in range(num_classes)]
