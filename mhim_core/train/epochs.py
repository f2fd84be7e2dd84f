"""One epoch in numbers. Light: results are read without torch."""

from typing import NamedTuple


class EpochRecord(NamedTuple):
    """One epoch's numbers; losses are means over bags."""

    epoch: int
    task_loss: float
    consistency_loss: float
    validation_loss: float
    validation_auroc: float | None
    """None where it is undefined."""
    learning_rate: float
