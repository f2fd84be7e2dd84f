"""The keys of `mhim pipeline`, `mhim retrain` and `mhim flow status`. Light: `--help` reads this file."""

from dataclasses import dataclass, field
from typing import Any

from flows.config.keys import (
    DecodeKeys,
    EmbedExecution,
    EncoderFiles,
    EncoderKeys,
    FailurePolicy,
    LabelledCohort,
    Method,
    PageKeys,
    PluginFile,
    ProtocolKeys,
    RayKeys,
    RegionKeys,
    TrainExecution,
    check_method,
    check_workers,
)
from flows.config.models import checked_name
from flows.config.roles import Role, part, role
from flows.config.tracking import TrackingKeys
from flows.config.trust import SigningKeys, TrustKeys
from mhim_core.cohort.task_options import SplitOptions, SplitScheme, TableOptions, TaskOptions
from mhim_core.errors import ConfigError
from mhim_core.mil.model_options import MhimOptions, ModelOptions
from mhim_core.registry.gate_options import GateOptions, HoldoutOptions
from mhim_core.slides.spec import SlidePolicy, TileSpec
from mhim_core.train.fit_options import FitOptions
from mhim_core.train.prediction import PredictOptions, PredictWith


@dataclass(frozen=True, kw_only=True)
class StepKeys:
    """How often a flow's steps are tried."""

    retries: int = 1
    """How many times a step is retried when storage did not answer or workers were lost; 0: never."""
    retry_wait_s: float = 5.0
    """Seconds before the first retry, doubled before each further one; 0: immediately."""

    def __post_init__(self) -> None:
        for name in ("retries", "retry_wait_s"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name}={getattr(self, name)} must be a number, 0 or more")


@dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """mhim pipeline: a cohort table → features → models → page, and the first champion of a name."""

    data: LabelledCohort = part(LabelledCohort, Role.identity)
    table: TableOptions = part(TableOptions, Role.identity)
    store: str = field(metadata=role(Role.output))
    """The feature store: a folder or s3://bucket/prefix."""
    out: str = field(metadata=role(Role.output))
    """Where the training runs go: a folder or s3://bucket/prefix; each gets a folder named by the fingerprint of its
    inputs."""
    registry: str = field(default="", metadata=role(Role.output))
    """The model registry for the first champion: a folder or s3://bucket/prefix; empty: none."""
    name: str = field(default="", metadata=role(Role.identity))
    """The model's name in the registry; empty: no model is registered."""
    encoder: EncoderKeys = part(EncoderKeys, Role.identity)
    tiles: TileSpec = part(TileSpec, Role.identity)
    regions: RegionKeys = part(RegionKeys, Role.identity)
    policy: SlidePolicy = part(SlidePolicy, Role.identity)
    failures: FailurePolicy = part(FailurePolicy, Role.identity)
    splits: SplitOptions = part(SplitOptions, Role.identity)
    target: TaskOptions = part(TaskOptions, Role.identity)
    plugin: PluginFile = part(PluginFile, Role.identity)
    method: Method = field(default=Method.mhim, metadata=role(Role.identity))
    """mhim: masked hard instance mining in two stages; plain: the aggregator alone (stage 1)."""
    model: ModelOptions = part(ModelOptions, Role.identity)
    mhim: MhimOptions = part(MhimOptions, Role.identity)
    fit: FitOptions = part(FitOptions, Role.identity)
    prediction: PredictOptions = part(PredictOptions, Role.identity)
    protocol: ProtocolKeys = part(ProtocolKeys, Role.identity)
    page: PageKeys = part(PageKeys, Role.identity)
    holdout: HoldoutOptions = part(HoldoutOptions, Role.identity)
    gate: GateOptions = part(GateOptions, Role.identity)
    steps: StepKeys = part(StepKeys, Role.execution)
    ray: RayKeys = part(RayKeys, Role.execution)
    decode: DecodeKeys = part(DecodeKeys, Role.execution)
    embedding: EmbedExecution = part(EmbedExecution, Role.execution)
    execution: TrainExecution = part(TrainExecution, Role.execution)
    tracking: TrackingKeys = part(TrackingKeys, Role.execution)
    trust: TrustKeys = part(TrustKeys, Role.execution)
    signing: SigningKeys = part(SigningKeys, Role.execution)
    asked: tuple[str, ...] = field(default=("*",), metadata={"is_key": False}, compare=False)
    """The keys that the user gave; *: all of them, if the config was made in Python."""

    def __post_init__(self) -> None:
        check_workers(self.execution, self.fit)
        check_method(self.method, self.model, self.protocol.teacher, self.prediction)
        self.encoder.require_one("pipeline")
        if bool(self.registry) != bool(self.name):
            raise ConfigError("registry= and name= belong together: give both, or neither")
        if self.name:
            checked_name(self.name)
        if self.name and self.splits.scheme is SplitScheme.final:
            raise ConfigError("scheme=final has no test part to estimate the model on; choose another scheme")


@dataclass(frozen=True, kw_only=True)
class RecipeChanges:
    """Training keys in which a challenger differs from the champion."""

    epochs: int | None = None
    """Epochs per stage; none: the champion's value."""
    learning_rate: float | None = None
    """Adam's learning rate in the first epoch; none: the champion's value."""
    patience: int | None = None
    """Stop after this many epochs without a better validation result; none: the champion's value."""
    max_instances: int | None = None
    """Maximum number of instances of a bag in training; none: the champion's value."""
    class_weights: bool | None = None
    """Weight the task loss by inverse class frequency; none: as for the champion."""
    balanced_sampling: bool | None = None
    """Draw bags so that every epoch has equally many of each class; none: as for the champion."""
    val_fraction: float | None = None
    """Share of the patients used for choosing the epoch instead of training; none: the champion's value."""
    aggregator: str | None = None
    """The model that turns a bag into a prediction; none: the champion's."""
    embed_dim: int | None = None
    """Number of features of an embedded instance; none: the champion's value."""
    seed: int | None = None
    """Seed of splits and training; none: the champion's. The same data, keys and seed give the same model again."""
    seeds: int | None = None
    """Number of models, trained with seed, seed + 1, …, that vote together; none: as many as the champion has."""
    predict_with: PredictWith | None = field(default=None, metadata={"neutral": None})
    """Which model of MHIM predicts: student, pair, plain or teacher; none: as of the champion."""

    def __post_init__(self) -> None:
        changed = self.changed()
        fit = {name: value for name, value in changed.items() if name in FitOptions.__dataclass_fields__}
        FitOptions(**{"min_learning_rate": 0.0} | fit)  # what the champion's is shows later
        SplitOptions(**{name: value for name, value in changed.items() if name == "val_fraction"})
        for name in ("embed_dim", "seeds"):
            if changed.get(name, 1) < 1:
                raise ConfigError(f"{name}={changed[name]} must be at least 1")

    def changed(self) -> dict[str, Any]:
        """The values that were set."""
        return {
            name: value for name in RecipeChanges.__dataclass_fields__ if (value := getattr(self, name)) is not None
        }


@dataclass(frozen=True, kw_only=True)
class RetrainConfig:
    """mhim retrain: new slides and labels → a challenger → the gate → promoted or kept."""

    registry: str = field(metadata=role(Role.output))
    """The model registry: a folder or s3://bucket/prefix."""
    name: str = field(metadata=role(Role.identity))
    """The model's name, which has a champion."""
    out: str = field(default="", metadata=role(Role.output))
    """Where the training runs go: a folder or s3://bucket/prefix; empty: runs/<name> in the registry."""
    slides_prefix: str = field(default="", metadata=role(Role.place))
    """A folder or s3://bucket/prefix whose slides are also embedded, although the table does not list them yet; empty:
    none."""
    max_age: float | None = field(default=None, metadata=role(Role.identity))
    """Age of the champion in days at which it is challenged even without new data; none: never."""
    folds: int | None = field(default=None, metadata=role(Role.identity))
    """Folds of the challenger's cross-validated estimate; none: as for the champion."""
    scheme: SplitScheme = field(default=SplitScheme.auto, metadata=role(Role.identity))
    """How the folds are made; the model itself is trained on every patient outside the holdout."""
    warm_start: bool = field(default=False, metadata=role(Role.identity))
    """Start the challenger from the champion's weights. The estimate over the folds always starts from scratch, since
    the champion has seen the test patients of the folds."""
    data: LabelledCohort = part(LabelledCohort, Role.identity)
    table: TableOptions = part(TableOptions, Role.identity)
    store: str = field(metadata=role(Role.output))
    """The feature store: a folder or s3://bucket/prefix."""
    regions: RegionKeys = part(RegionKeys, Role.identity)
    policy: SlidePolicy = part(SlidePolicy, Role.identity)
    failures: FailurePolicy = part(FailurePolicy, Role.identity, retry_failed=False)
    encoder: EncoderFiles = part(EncoderFiles, Role.identity)
    plugin: PluginFile = part(PluginFile, Role.identity)
    changes: RecipeChanges = part(RecipeChanges, Role.identity)
    page: PageKeys = part(PageKeys, Role.identity, max_heatmaps=0)
    gate: GateOptions = part(GateOptions, Role.identity)
    steps: StepKeys = part(StepKeys, Role.execution)
    ray: RayKeys = part(RayKeys, Role.execution)
    decode: DecodeKeys = part(DecodeKeys, Role.execution)
    embedding: EmbedExecution = part(EmbedExecution, Role.execution)
    execution: TrainExecution = part(TrainExecution, Role.execution)
    tracking: TrackingKeys = part(TrackingKeys, Role.execution)
    trust: TrustKeys = part(TrustKeys, Role.execution)
    signing: SigningKeys = part(SigningKeys, Role.execution)
    asked: tuple[str, ...] = field(default=("*",), metadata={"is_key": False}, compare=False)
    """The keys that the user gave; *: all of them, if the config was made in Python."""

    def gives(self, name: str) -> bool:
        """Whether the user set this key, so that its value is not taken from the last promotion."""
        return name in self.asked or "*" in self.asked

    def __post_init__(self) -> None:
        if self.name:
            checked_name(self.name)
        if self.scheme is SplitScheme.final:
            raise ConfigError("scheme=final has no test part to estimate the model on; choose another scheme")
        if self.max_age is not None and not 0 < self.max_age < float("inf"):
            raise ConfigError(f"max_age={self.max_age} must be a number of days above 0, or none")
        if self.folds is not None and self.folds < 1:
            raise ConfigError(f"folds={self.folds} must be at least 1 (one split)")


@dataclass(frozen=True, kw_only=True)
class FlowStatusConfig:
    """mhim flow status: the progress of a flow's steps."""

    name: str = field(metadata=role(Role.identity))
    """The model's name, under which the pipeline or retraining was started; pipeline for a pipeline without a name."""
    registry: str = field(metadata=role(Role.place))
    """Where the records are: the registry, or the out= of a pipeline without one; a folder or s3://bucket/prefix."""
    last: int = field(default=2, metadata=role(Role.identity))
    """Number of runs to show of each flow, the newest first."""

    def __post_init__(self) -> None:
        if self.last < 1:
            raise ConfigError(f"last={self.last} must be at least 1")
