"""The content of a report. Every text in it is untrusted: ids and labels come from the user's table."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from mhim_core.metrics import Estimate, MeanStd, Metric
from mhim_core.task import TaskKind


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
    targets: Mapping[str, str] = field(default_factory=dict)
    """Further lines about the targets, such as numbers of events and censorings."""
    failures: tuple[FailedSlide, ...] = ()
    empty: tuple[str, ...] = ()
    """Ids of slides without tissue."""
    upsampled: tuple[UpsampledSlide, ...] = ()
    notes: tuple[str, ...] = ()


class CalibrationResult(NamedTuple):
    """Metrics by name of one model's probabilities, before and after each fit's temperature."""

    before: Mapping[str, Estimate]
    after: Mapping[str, Estimate]


class RiskGroups(NamedTuple):
    """One seed's bags of high and low predicted risk."""

    seed: int
    num_high: int
    num_low: int
    statistic: float | None
    """Log-rank's χ² of one degree of freedom."""
    p: float | None
    reason: str = ""
    """Why there is no test."""


@dataclass(frozen=True, kw_only=True)
class ModelResult:
    """One model's pooled metrics by name (keys of METRICS), with intervals, and their mean over folds."""

    name: str
    estimates: Mapping[str, Estimate]
    over_folds: Mapping[str, MeanStd] = field(default_factory=dict)
    """Over all fits, where there are several seeds."""
    is_reported: bool = False
    """The run's main model; the others are for comparison."""
    calibration: CalibrationResult | None = None
    decisions: Mapping[str, Estimate] = field(default_factory=dict)
    """Of two classes: the metrics at each fit's own threshold."""
    risk_groups: tuple[RiskGroups, ...] = ()
    """Survival: by seed."""
    risk_reason: str = ""
    """Why there are no risk groups."""


class FoldResult(NamedTuple):
    """The reported model on one fold, of one seed. Numbers are of bags."""

    seed: int
    fold: int
    num_train: int
    num_validation: int
    num_test: int
    metrics: Mapping[str, Metric]
    best_epoch: int | None = None
    """0-based."""
    chosen: Mapping[str, Metric] = MappingProxyType({})
    """What validation chose, by the heading to show: Temperature, Threshold, Median risk."""


class SiteResult(NamedTuple):
    """The reported model on the bags of one site."""

    name: str
    num_bags: int
    num_patients: int
    estimates: Mapping[str, Estimate]
    decisions: Mapping[str, Estimate]
    """Of two classes: at the thresholds that all validation bags chose."""


class ClassOutput(NamedTuple):
    """Classification of one bag."""

    label: str | None
    predicted: str
    probabilities: tuple[float, ...]
    """(C,) in class order."""
    spread: tuple[float, ...] = ()
    """(C,) standard deviations over the models that were averaged; empty for one."""
    calibrated: tuple[float, ...] = ()
    """(C,) probabilities after temperature; empty: not made."""
    decision: str | None = None
    """Of two classes: at the threshold that validation chose; None: not made."""


class RiskOutput(NamedTuple):
    """Survival of one bag."""

    time: float | None
    event: bool | None
    """False: censored at `time`."""
    risk: float
    """Higher for an earlier event; it has no unit."""
    spread: float | None = None


class NumberOutput(NamedTuple):
    """Regression of one bag, in the cohort's unit."""

    truth: float | None
    predicted: float
    spread: float | None = None


class Prediction(NamedTuple):
    """One bag: a slide, or all slides of a patient."""

    bag_id: str
    patient_id: str
    output: ClassOutput | RiskOutput | NumberOutput
    fold: int | None = None
    site: str | None = None
    num_slides: int = 1


class ReportFigure(NamedTuple):
    """A figure as PNG, JPEG or WebP bytes."""

    title: str
    image: bytes
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class SlidePanel:
    """The pictures of one slide; images are PNG, JPEG or WebP bytes."""

    slide_id: str
    overview: bytes | None
    """None: the slide's file could not be read, and the heat map lies on white."""
    heatmap: bytes
    top_tiles: bytes | None = None
    """The most attended tiles, the first at the top left."""
    prediction: Prediction | None = None
    """Of the bag that the slide belongs to."""
    attention_share: float | None = None
    """Where the bag has several slides: this slide's share of its attention."""
    num_tiles: int = 0
    caption: str = ""
    heatmaps_of: Mapping[str, bytes] = field(default_factory=dict)
    """Where `heatmap` shows the mean of several models: that of each, by its title."""


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """Everything on the page. Empty parts are left out of it."""

    title: str
    task: str
    """One sentence: which classes are told apart, by which model."""
    cohort: CohortSummary
    kind: TaskKind = TaskKind.classification
    classes: tuple[str, ...] = ()
    """In class order; of two the second is the positive one."""
    unit: str = "slide"
    """What a bag is: slide or patient."""
    num_seeds: int = 1
    """How many times every fold was trained."""
    protocol: str = ""
    """How the numbers were obtained, in a sentence or two: folds, what chose the model, what the intervals are."""
    models: tuple[ModelResult, ...] = ()
    folds: tuple[FoldResult, ...] = ()
    sites: tuple[SiteResult, ...] = ()
    site_note: str = ""
    """Whether the models that predicted a site's bags were trained on the site."""
    figures: tuple[ReportFigure, ...] = ()
    predictions: tuple[Prediction, ...] = ()
    averaged: str = ""
    """What a prediction is the mean of, such as `3 seeds`; empty: of one model."""
    panels: tuple[SlidePanel, ...] = ()
    panel_order: str = ""
    """In what order, such as `wrong predictions first`."""
    encoder: Mapping[str, object] = field(default_factory=dict)
    """The encoder's card."""
    tiling: Mapping[str, object] = field(default_factory=dict)
    training: Mapping[str, object] = field(default_factory=dict)
    """Method and its options."""
    provenance: Mapping[str, object] = field(default_factory=dict)
    """Versions, manifest, fingerprints, seed: what is needed to reproduce it."""
    notes: tuple[str, ...] = ()
    """Limitations that a reader must know, one sentence each."""
