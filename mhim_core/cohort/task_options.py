"""How a table is read, and what a cohort is asked for: what to predict, of which bags, over which folds.

Light: `--help` reads this file.
"""

from dataclasses import dataclass, field, replace
from enum import Enum

from mhim_core.cohort.values import NO_LABEL, word_key
from mhim_core.errors import ConfigError


class PatientUnit(Enum):
    """Names are what a user types."""

    column = "column"
    slides = "slides"


class LabelSpellings(Enum):
    """Names are what a user types."""

    refuse = "refuse"
    merge = "merge"


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """How the user's tables are read. What comes of it, rows with their targets, patients and folds, is identity."""

    id_column: str = field(default="", metadata={"neutral": ""})
    """The column of the slides' ids, in labels= the column of its ids where it has it; empty: found by its name."""
    patient_column: str = field(default="", metadata={"neutral": ""})
    """The column of the patients; empty: found by its name."""
    label_column: str = field(default="", metadata={"neutral": ""})
    """The column of the labels, in labels= where that is given; with it, times and events are read where they are
    named as well; empty: found by its name."""
    time_column: str = field(default="", metadata={"neutral": ""})
    """Survival: the column of the times, in labels= where that is given; with it, labels are read where label_column=
    is given as well; empty: found by its name."""
    event_column: str = field(default="", metadata={"neutral": ""})
    """Survival: the column of the events, as time_column; empty: found by its name."""
    patients: PatientUnit = PatientUnit.column
    """column: as the table says, and training refuses a table that does not; slides: every slide is a patient of its
    own, and no column of patients is read."""
    na_values: tuple[str, ...] = field(default=NO_LABEL, metadata={"neutral": ()})
    """Words that say that a slide has no label, whatever their case; leave one out and it is a class; empty: only an
    empty cell says it."""
    label_spellings: LabelSpellings = LabelSpellings.refuse
    """Labels that differ only in case, blanks, underscores or hyphens (Tumour, tumour), or as numbers not at all (1,
    1.0). refuse: the command ends, naming them; merge: the most frequent spelling counts."""
    slides_dir: str = field(default="", metadata={"neutral": "", "role": "place"})
    """Where the slides lie, a folder or s3://bucket/prefix, for tables of ids or relative paths; empty: beside the
    table."""
    extension: str = field(default="", metadata={"neutral": ""})
    """The extension of the slide files, such as .svs, for tables that give ids or files of features (.h5, .pt); empty:
    as the table gives them."""

    def __post_init__(self) -> None:
        if self.patients is PatientUnit.slides and self.patient_column:
            raise ConfigError(f"patients=slides reads no patients, and patient_column={self.patient_column} names them")
        if "/" in self.extension:
            raise ConfigError(f"extension={self.extension} is no file extension, such as .svs")

    @property
    def dotted_extension(self) -> str:
        """`extension` with its dot; "" where there is none."""
        return f".{self.extension.lstrip('.')}" if self.extension else ""

    def without_targets(self) -> "TableOptions":
        """For the cohort's own table, where another gives labels, times and events."""
        return replace(self, label_column="", time_column="", event_column="")

    def named_columns(self) -> dict[str, str]:
        """The columns that were named, by option; those of patients not where slides are patients."""
        keys = ("id_column", "patient_column", "label_column", "time_column", "event_column")
        return {key: name for key in keys if (name := getattr(self, key))}

    def missing_words(self) -> frozenset[str]:
        """`na_values` as `values.word_key` makes them."""
        return frozenset(map(word_key, self.na_values))


AS_FOUND = TableOptions()
"""Columns by their names, and no option set."""


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
