"""How a table is read, what is predicted of which bags, and over which folds.

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
    """How the user's tables are read. Not identity themselves: the resulting rows, targets and folds are."""

    id_column: str = field(default="", metadata={"neutral": ""})
    """The column of slide ids, also in labels= if it has a column of that name; empty: found by its name."""
    patient_column: str = field(default="", metadata={"neutral": ""})
    """The column of patient ids; empty: found by its name."""
    label_column: str = field(default="", metadata={"neutral": ""})
    """The column of labels, in labels= if that is given. If it is set, times and events are read only if their columns
    are set too; empty: found by its name."""
    time_column: str = field(default="", metadata={"neutral": ""})
    """Survival: the column of times, in labels= if that is given. If it is set, labels are read only if label_column=
    is set too; empty: found by its name."""
    event_column: str = field(default="", metadata={"neutral": ""})
    """Survival: the column of events, in the same way as time_column; empty: found by its name."""
    patients: PatientUnit = PatientUnit.column
    """column: the patients of the table; training refuses a table without them. slides: every slide counts as a patient
    of its own, and no patient column is read."""
    na_values: tuple[str, ...] = field(default=NO_LABEL, metadata={"neutral": ()})
    """Words that mean that a slide has no label, regardless of case. A word that you leave out becomes a class; empty:
    only an empty cell means no label."""
    label_spellings: LabelSpellings = LabelSpellings.refuse
    """What to do about labels that differ only in case, spaces, underscores or hyphens (Tumour, tumour), or are the
    same number (1, 1.0). refuse: stop and name them; merge: make them one class under the most frequent spelling."""
    slides_dir: str = field(default="", metadata={"neutral": "", "role": "place"})
    """Where the slides are, a folder or s3://bucket/prefix, for tables of ids or relative paths; empty: beside the
    table."""
    extension: str = field(default="", metadata={"neutral": ""})
    """The extension of the slide files, such as .svs, for tables that list ids or feature files (.h5, .pt); empty: as
    in the table."""

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
    """auto: regression if the labels are numbers that are not all whole or have more than 20 different values, else
    classification; survival if there are time and event but no label. Or set it: classification, survival,
    regression."""
    time_bins: int = 4
    """Survival: number of time bins, at least 2, cut at quantiles of the event times of the training bags; otherwise
    unused."""
    bags: BagUnit = BagUnit.slide
    """slide: one bag per slide; patient: one bag per patient, all slides of the patient joined."""

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
    """auto: the table's split or fold column if it is filled in, else folds; folds: stratified folds at patient level;
    leave_one_patient_out: one fold per patient; column: the table's own train, val and test, or its own test folds;
    final: one split of all patients without a test part, for a model that is judged on other patients."""
    folds: int = 5
    """Number of folds; each patient is in the test part of exactly one. 1: a single train/validation/test split. Unused
    with scheme=final."""
    val_fraction: float = 0.2
    """Share of the patients outside the test part that are used for choosing the epoch instead of training, above 0 and
    below 1."""
    test_fraction: float = 0.2
    """Share of the patients in the test part if folds is 1, above 0 and below 1; otherwise unused."""

    def __post_init__(self) -> None:
        if self.folds < 1:
            raise ConfigError(f"folds={self.folds} must be at least 1 (one split)")
        for name in ("val_fraction", "test_fraction"):
            value = getattr(self, name)
            if not 0 < value < 1:
                raise ConfigError(f"{name}={value} must be above 0 and below 1")
