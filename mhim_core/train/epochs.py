"""One epoch in numbers. Light: results are read without torch."""

from typing import NamedTuple


class EpochRecord(NamedTuple):
    """One epoch's numbers; losses are means over bags."""

    epoch: int
    task_loss: float
    consistency_loss: float
    validation_loss: float
    validation_metric: float | None
    """AUROC, or survival's Harrell's C; None where it is undefined, and in a regression."""
    learning_rate: float
