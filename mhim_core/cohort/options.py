"""How a cohort is split, as the user asks for it. Standard library and errors only: `--help` reads this file."""

from dataclasses import dataclass
from enum import Enum

from mhim_core.errors import ConfigError


class SplitScheme(Enum):
    """Names are what a user types."""

    auto = "auto"
    folds = "folds"
    leave_one_patient_out = "leave_one_patient_out"
    column = "column"


@dataclass(frozen=True, kw_only=True)
class SplitOptions:
    """Part of a result's identity; the seed is passed beside it."""

    scheme: SplitScheme = SplitScheme.auto
    """auto: the table's split column if it is filled, else folds; folds: patient-level stratified folds;
    leave_one_patient_out: one fold a patient; column: the table's own train, val and test."""
    folds: int = 5
    """Number of folds, each patient in the test part of one; 1 makes a single train/validation/test split."""
    val_fraction: float = 0.2
    """Share of the patients outside the test part that choose the model and train nothing, above 0 and below 1."""
    test_fraction: float = 0.2
    """Share of the patients that are tested on where folds is 1, above 0 and below 1; otherwise unused."""

    def __post_init__(self) -> None:
        if self.folds < 1:
            raise ConfigError(f"folds={self.folds} must be at least 1 (one split)")
        for name in ("val_fraction", "test_fraction"):
            value = getattr(self, name)
            if not 0 < value < 1:
                raise ConfigError(f"{name}={value} must be above 0 and below 1")
