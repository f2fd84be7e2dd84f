"""What a user may choose about a fit. Standard library only: `mhim --help` reads this."""

from dataclasses import dataclass
from enum import StrEnum

from mhim_core.errors import ConfigError


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
    """Passes over the training bags, per stage; the schedules' length even when stopped early."""
    learning_rate: float = 2e-4
    """Adam's learning rate in the first epoch."""
    min_learning_rate: float = 1e-7
    """Where the cosine, stepped once per epoch, ends; equal to learning_rate disables it."""
    weight_decay: float = 1e-5
    """Coupled (L2) weight decay; 0 disables it."""
    patience: int = 20
    """Epochs without a better validation result before stopping; 0 disables early stopping."""
    patience_from_epoch: int = 100
    """No early stop before this many epochs are done."""
    global_batch: int = 1
    """Bags per optimizer step, over all workers; 1 is the published recipe."""
    class_weights: bool = False
    """Weight the task loss by inverse class frequency, scaled to mean 1 over the training bags."""
    selection: Selection = Selection.best
    """best: the epoch with the best validation AUROC (ties by loss); last: the last epoch."""
    precision: Precision = Precision.float32
    """float32, or float64 for comparisons to the last digit."""
    seed: int = 2021
    """Seed of initialisation, sampling, masks and dropout."""

    def __post_init__(self) -> None:
        for name in ("epochs", "global_batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("patience", "patience_from_epoch", "weight_decay", "min_learning_rate"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name}={getattr(self, name)} must not be negative")
        if not self.learning_rate > 0 or self.learning_rate < self.min_learning_rate:
            raise ConfigError(
                f"learning_rate={self.learning_rate} must be above 0 and not below "
                f"min_learning_rate={self.min_learning_rate}"
            )


@dataclass(frozen=True, kw_only=True)
class FitExecution:
    """How a fit is carried out; changes no result and is in no fingerprint."""

    checkpoint_every: int = 10
    """Epochs between mid-fit checkpoints, from which an interrupted fit resumes; 0 disables them."""

    def __post_init__(self) -> None:
        if self.checkpoint_every < 0:
            raise ConfigError(f"checkpoint_every={self.checkpoint_every} must not be negative")
