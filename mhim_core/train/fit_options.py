"""What a user may choose about a fit. Standard library only: `mhim --help` reads this."""

import dataclasses
import math
from dataclasses import dataclass
from enum import StrEnum

from mhim_core.errors import ConfigError
from mhim_core.task import TaskKind


class Precision(StrEnum):
    """The floating-point type of weights, activations and gradients."""

    float32 = "float32"
    float64 = "float64"


class Selection(StrEnum):
    """Which epoch's weights are the fit's model."""

    best = "best"
    last = "last"


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How one stage is fitted; part of the result's identity."""

    epochs: int = 200
    """Epochs per stage; also the length of the schedules, even when training stops early."""
    learning_rate: float = 2e-4
    """Adam's learning rate in the first epoch."""
    min_learning_rate: float = 1e-7
    """Final learning rate of the cosine schedule, which steps once per epoch; the value of learning_rate disables
    it."""
    weight_decay: float = 1e-5
    """Coupled (L2) weight decay; 0 disables it."""
    patience: int | None = None
    """Stop after this many epochs without a better validation result; 0 disables early stopping; none: 20 (survival
    15)."""
    patience_from_epoch: int | None = None
    """Never stop early before this many epochs; none: 100 (survival 30)."""
    global_batch: int = 1
    """Bags per optimizer step, summed over all workers; 1 is the published recipe."""
    class_weights: bool = False
    """Weight the task loss by inverse class frequency, scaled to a mean of 1 over the training bags."""
    balanced_sampling: bool = False
    """Draw bags so that every epoch has equally many of each class, repeating bags of rare classes; false: every bag
    once."""
    max_instances: int = 0
    """Maximum number of instances of a bag in training, redrawn every epoch; 0: all. Evaluation always uses the whole
    bag."""
    selection: Selection = Selection.best
    """best: keep the epoch with the best validation AUROC (survival: Harrell's C; regression: loss); last: keep the
    last epoch."""
    precision: Precision = Precision.float32
    """float32, or float64 for comparisons to the last digit."""
    seed: int = 2021
    """Seed of initialisation, sampling, masks and dropout."""

    def __post_init__(self) -> None:
        for name in ("epochs", "global_batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("patience", "patience_from_epoch", "max_instances", "weight_decay", "min_learning_rate"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ConfigError(f"{name}={value} must be a number and not negative")
        if self.class_weights and self.balanced_sampling:
            raise ConfigError("class_weights and balanced_sampling both correct for rare classes; choose one of them")
        if not 0 < self.learning_rate < math.inf or self.learning_rate < self.min_learning_rate:
            raise ConfigError(
                f"learning_rate={self.learning_rate} must be above 0 and not below "
                f"min_learning_rate={self.min_learning_rate}"
            )

    def check_task(self, kind: TaskKind) -> None:
        """Raises ConfigError for an option that does not apply to this kind of task."""
        for name in ("class_weights", "balanced_sampling"):
            if getattr(self, name) and kind is not TaskKind.classification:
                raise ConfigError(f"{name}=true needs classes, and the task is {kind}")

    def resolved(self, kind: TaskKind) -> "FitOptions":
        """With the two numbers of early stopping filled in, whose defaults depend on the task."""
        patience, from_epoch = (15, 30) if kind is TaskKind.survival else (20, 100)
        return dataclasses.replace(
            self,
            patience=patience if self.patience is None else self.patience,
            patience_from_epoch=from_epoch if self.patience_from_epoch is None else self.patience_from_epoch,
        )


MAX_PACK = 32_768
"""Instances of a pack; bags of more are embedded in chunks (`mil/large_bags.py`)."""


@dataclass(frozen=True, kw_only=True)
class FitExecution:
    """How a fit is carried out; changes no result, but for packs the rounding, and is in no fingerprint."""

    checkpoint_every: int = 10
    """Epochs between checkpoints, from which an interrupted fit resumes; 0: none after epochs."""
    checkpoint_every_steps: int = 0
    """Optimizer steps between checkpoints within an epoch as well; 0: none by steps."""
    checkpoint_every_min: float = 10.0
    """Minutes after a checkpoint until another is written within an epoch, so that no long epoch is lost; 0: none by
    time."""
    drift_every: int = 100
    """Optimizer steps after which several workers compare their weights, which must be equal to the last bit; 0: only
    after each epoch and before each checkpoint within one."""
    pack_instances: int = 0
    """Compute small bags of a worker's share of a step, and of the validation bags, together, up to so many instances
    at once, at most 32768; a larger bag is computed alone. Results change by rounding alone. 2048 saves time on a CPU
    where bags have up to a few hundred instances and global_batch is above workers; without effect for transmil and
    plug-ins. 0: every bag alone."""

    def __post_init__(self) -> None:
        for name in ("checkpoint_every", "checkpoint_every_steps", "checkpoint_every_min", "drift_every"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name}={getattr(self, name)} must be a number and not negative")
        if not 0 <= self.pack_instances <= MAX_PACK:
            raise ConfigError(f"pack_instances={self.pack_instances} must lie between 0 and {MAX_PACK}")
