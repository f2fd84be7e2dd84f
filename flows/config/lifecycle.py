"""The keys of `mhim pipeline`, `mhim retrain` and `mhim flow status`. Light: `--help` reads this file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flows.config.commands import TrainConfig
from flows.config.keys import (
    CohortKeys,
    EmbedExecution,
    EncoderFiles,
    EncoderKeys,
    FailurePolicy,
    FlowConfig,
    LabelKeys,
    Method,
    MethodKeys,
    OutKeys,
    PageKeys,
    PluginFile,
    ProtocolKeys,
    StoreKeys,
    TrainExecution,
    WorkersFit,
)
from flows.config.registry import RegistryKeys, checked_name
from flows.config.tracking import TrackingKeys
from mhim_core.cohort.options import SplitOptions, SplitScheme, TaskOptions
from mhim_core.errors import ConfigError
from mhim_core.mil.options import MhimOptions
from mhim_core.registry.options import GateOptions, HoldoutOptions
from mhim_core.slides.spec import SlidePolicy, TileSpec
from mhim_core.train.options import FitOptions


@dataclass(frozen=True, kw_only=True)
class StepKeys:
    """Execution: a flow's steps."""

    retries: int = 1
    """Times a step is tried again where storage did not answer or workers were lost; 0: never."""
    retry_wait_s: float = 5.0
    """Seconds before the first of them, doubled before each further one; 0: at once."""

    def __post_init__(self) -> None:
        for name in ("retries", "retry_wait_s"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name}={getattr(self, name)} must be a number, 0 or more")


@dataclass(frozen=True, kw_only=True)
class PipelineConfig(
    FlowConfig,
    TrackingKeys,
    StepKeys,
    GateOptions,
    HoldoutOptions,
    PageKeys,
    PluginFile,
    ProtocolKeys,
    LabelKeys,
    WorkersFit,
    MhimOptions,
    MethodKeys,
    TaskOptions,
    SplitOptions,
    EmbedExecution,
    EncoderFiles,
    FailurePolicy,
    SlidePolicy,
    TileSpec,
    EncoderKeys,
    OutKeys,
    StoreKeys,
    CohortKeys,
):
    """mhim pipeline: a cohort table → features → models → page, and the first champion of a name."""

    out: str
    """Where the training runs go: a folder or s3://bucket/prefix; each lies in a folder that carries the fingerprint
    of its inputs."""
    registry: str = ""
    """The model registry, in which the first champion is to appear: a folder or s3://bucket/prefix; empty: none."""
    name: str = ""
    """The model's name in the registry; empty: no model is registered."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.registry) != bool(self.name):
            raise ConfigError("registry= and name= belong together: give both, or neither")
        if self.name:
            checked_name(self.name)
        if self.name and self.scheme is SplitScheme.final:
            raise ConfigError("scheme=final tests on nobody; the folds are an estimate, so choose another scheme")
        if self.teacher and self.method is not Method.mhim:
            raise ConfigError(f"teacher={self.teacher}: only method=mhim has a teacher")

    @classmethod
    def implied(cls, given: Mapping[str, object]) -> dict[str, Any]:
        """What the recipe among the given keys sets, for those that are not given."""
        return TrainConfig.implied(given)


@dataclass(frozen=True, kw_only=True)
class RecipeChanges:
    """What a challenger is trained with, where it is not the champion's own."""

    epochs: int | None = None
    """Passes over the training bags, per stage; none: the champion's."""
    learning_rate: float | None = None
    """Adam's learning rate in the first epoch; none: the champion's."""
    patience: int | None = None
    """Epochs without a better validation result before stopping; none: the champion's."""
    max_instances: int | None = None
    """Most instances of a bag in training; none: the champion's."""
    class_weights: bool | None = None
    """Weight the task loss by inverse class frequency; none: as the champion."""
    balanced_sampling: bool | None = None
    """Draw bags so that every epoch holds as many of each class; none: as the champion."""
    val_fraction: float | None = None
    """Share of the patients that choose the model and train nothing; none: the champion's."""
    aggregator: str | None = None
    """How a bag becomes a prediction; none: the champion's."""
    embed_dim: int | None = None
    """Features of an embedded instance; none: the champion's."""
    seed: int | None = None
    """Seed of splits and training; none: the champion's. The same data, keys and seed give the same model."""
    seeds: int | None = None
    """Trainings, with seed, seed + 1, …, that vote together; none: as many as the champion's."""

    def __post_init__(self) -> None:
        given = self.given()
        fit = {name: value for name, value in given.items() if name in FitOptions.__dataclass_fields__}
        FitOptions(**{"min_learning_rate": 0.0} | fit)  # what the champion's is shows later
        SplitOptions(**{name: value for name, value in given.items() if name == "val_fraction"})
        for name in ("embed_dim", "seeds"):
            if given.get(name, 1) < 1:
                raise ConfigError(f"{name}={given[name]} must be at least 1")

    def given(self) -> dict[str, Any]:
        """Those that were."""
        return {
            name: value for name in RecipeChanges.__dataclass_fields__ if (value := getattr(self, name)) is not None
        }


@dataclass(frozen=True, kw_only=True)
class RetrainConfig(
    FlowConfig,
    TrackingKeys,
    StepKeys,
    RecipeChanges,
    GateOptions,
    PageKeys,
    PluginFile,
    LabelKeys,
    TrainExecution,
    EmbedExecution,
    EncoderFiles,
    FailurePolicy,
    SlidePolicy,
    StoreKeys,
    CohortKeys,
    RegistryKeys,
):
    """mhim retrain: new slides and labels → a challenger → the gate → promoted or kept."""

    name: str
    """The model's name, which has a champion."""
    out: str = ""
    """Where the training runs go: a folder or s3://bucket/prefix; empty: runs/<name> in the registry."""
    slides_prefix: str = ""
    """A folder or s3://bucket/prefix whose slides are embedded too, though the table does not list them yet; empty:
    none."""
    max_age: float | None = None
    """Days after which the champion is challenged though nothing is new; none: never."""
    folds: int | None = None
    """Folds of the challenger's cross-validated estimate; none: the champion's."""
    scheme: SplitScheme = SplitScheme.auto
    """How they are made; the model itself is trained on every patient that is not in the holdout."""
    warm_start: bool = False
    """Start the challenger from the champion's weights. Its estimate over the folds starts anew in either case, since
    the champion has seen their test patients."""
    retry_failed: bool = False
    """Try slides again that failed before with the same source and policies, and not only those whose failure said
    nothing of the slide (a full disk, storage); they count as new in neither case."""
    max_heatmaps: int = 0
    """Slides with a heat map on the page of the estimate; 0: none."""
    asked: tuple[str, ...] = field(default=("*",), metadata={"is_key": False}, compare=False)
    """The keys that a person gave; *: every one, as where this is made in Python."""

    @classmethod
    def implied(cls, given: Mapping[str, object]) -> dict[str, Any]:
        """Which keys were given: what was not is as the champion's flow had it."""
        return {"asked": tuple(sorted(given))}

    def gives(self, name: str) -> bool:
        return name in self.asked or "*" in self.asked

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name:
            checked_name(self.name)
        if self.scheme is SplitScheme.final:
            raise ConfigError("scheme=final tests on nobody; the folds are an estimate, so choose another scheme")
        if self.max_age is not None and not 0 < self.max_age < float("inf"):
            raise ConfigError(f"max_age={self.max_age} must be a number of days above 0, or none")
        if self.folds is not None and self.folds < 1:
            raise ConfigError(f"folds={self.folds} must be at least 1 (one split)")


@dataclass(frozen=True, kw_only=True)
class FlowStatusConfig(FlowConfig):
    """mhim flow status: how a flow's steps stand."""

    name: str
    """The model's name, under which the pipeline or retraining was started; of a pipeline without one: pipeline."""
    registry: str
    """Where the records lie: the registry, or the out= of a pipeline without one; a folder or s3://bucket/prefix."""
    last: int = 2
    """Runs shown of each flow, the newest first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.last < 1:
            raise ConfigError(f"last={self.last} must be at least 1")
