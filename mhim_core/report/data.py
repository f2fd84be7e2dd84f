"""What a report is made of. Every text in it is untrusted: ids and labels come from the user's table."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from mhim_core.metrics import Estimate, MeanStd, Metric


class FailedSlide(NamedTuple):
    """One slide without features, and why."""

    slide_id: str
    reason: str
    message: str


class UpsampledSlide(NamedTuple):
    """A slide scanned coarser than the target, whose tiles were enlarged."""

    slide_id: str
    upsample: float
    """Times the finest level was enlarged."""


@dataclass(frozen=True, kw_only=True)
class CohortSummary:
    """The cohort and what became of its slides: num_slides = ok + empty + failed + skipped."""

    name: str
    num_slides: int
    num_patients: int
    num_ok: int
    num_empty: int
    num_failed: int
    num_skipped: int = 0
    """Embedded by an earlier run."""
    num_per_class: Mapping[str, int] = field(default_factory=dict)
    """Labelled slides by class, in class order."""
    num_unlabelled: int = 0
    failures: tuple[FailedSlide, ...] = ()
    empty: tuple[str, ...] = ()
    """Ids of slides without tissue."""
    upsampled: tuple[UpsampledSlide, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ModelResult:
    """One model's pooled metrics by name (keys of METRICS), with intervals, and their mean over folds."""

    name: str
    estimates: Mapping[str, Estimate]
    over_folds: Mapping[str, MeanStd] = field(default_factory=dict)
    is_reported: bool = False
    """The model the run stands for; the others are for comparison."""


class FoldResult(NamedTuple):
    """The reported model on one fold."""

    fold: int
    num_train: int
    num_validation: int
    num_test: int
    metrics: Mapping[str, Metric]
    best_epoch: int | None = None
    """0-based."""


class Prediction(NamedTuple):
    """One slide. `probabilities` (C,) in class order."""

    slide_id: str
    patient_id: str
    label: str | None
    predicted: str
    probabilities: tuple[float, ...]
    fold: int | None = None


class ReportFigure(NamedTuple):
    """A figure as PNG or JPEG bytes."""

    title: str
    image: bytes
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class SlidePanel:
    """What the model saw on one slide; images are PNG or JPEG bytes."""

    slide_id: str
    overview: bytes
    heatmap: bytes
    top_tiles: bytes | None = None
    """The most attended tiles, the first at the top left."""
    label: str | None = None
    predicted: str | None = None
    probability: float | None = None
    """Of the predicted class."""
    num_tiles: int = 0
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """Everything on the page. Empty parts are left out of it."""

    title: str
    task: str
    """One sentence: what is told from what, by which model."""
    cohort: CohortSummary
    classes: tuple[str, ...] = ()
    """In class order; of two the second is the positive one."""
    protocol: str = ""
    """How the numbers were obtained, in a sentence or two: folds, what chose the model, what the intervals are."""
    models: tuple[ModelResult, ...] = ()
    folds: tuple[FoldResult, ...] = ()
    figures: tuple[ReportFigure, ...] = ()
    predictions: tuple[Prediction, ...] = ()
    panels: tuple[SlidePanel, ...] = ()
    encoder: Mapping[str, object] = field(default_factory=dict)
    """The encoder's card."""
    tiling: Mapping[str, object] = field(default_factory=dict)
    training: Mapping[str, object] = field(default_factory=dict)
    """Method and its options."""
    provenance: Mapping[str, object] = field(default_factory=dict)
    """Versions, manifest, fingerprints, seed: what is needed to make it again."""
    notes: tuple[str, ...] = ()
    """What a reader must know before believing the numbers, one sentence each."""
