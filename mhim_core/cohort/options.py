"""What a cohort is asked for: what to predict, of which bags, over which folds. Light: `--help` reads this file."""

from dataclasses import dataclass
from enum import Enum

from mhim_core.errors import ConfigError


class TaskName(Enum):
    """Names are what a user types."""

    auto = "auto"
    classification = "classification"
    survival = "survival"
    regression = "regression"


class BagUnit(Enum):
    """Names are what a user types."""

    slide = "slide"
    patient = "patient"


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """Part of a result's identity."""

    task: TaskName = TaskName.auto
    """auto: regression for labels that are numbers and either not all whole or more than 20 different ones, else
    classification; survival where there is no label but time and event; or name it: classification, survival,
    regression."""
    time_bins: int = 4
    """Survival: number of time bins, at least 2, cut at quantiles of the times of the training bags' events; otherwise
    unused."""
    bags: BagUnit = BagUnit.slide
    """slide: a bag a slide; patient: a bag a patient, of all slides of the patient one after another."""

    def __post_init__(self) -> None:
        if self.time_bins < 2:
            raise ConfigError(f"time_bins={self.time_bins} must be at least 2")


class SplitScheme(Enum):
    """Names are what a user types."""

    auto = "auto"
    folds = "folds"
    leave_one_patient_out = "leave_one_patient_out"
    column = "column"
    final = "final"


@dataclass(frozen=True, kw_only=True)
class SplitOptions:
    """Part of a result's identity; the seed is passed beside it."""

    scheme: SplitScheme = SplitScheme.auto
    """auto: the table's split or fold column if one is filled, else folds; folds: patient-level stratified folds;
    leave_one_patient_out: one fold a patient; column: the table's own train, val and test, or its own test folds;
    final: one split without a test part, of every patient: for a model that is judged on patients kept elsewhere."""
    folds: int = 5
    """Number of folds, each patient in the test part of one; 1 makes a single train/validation/test split; unused where
    the scheme is final."""
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
