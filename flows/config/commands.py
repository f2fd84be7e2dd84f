"""Every flow's configuration: flat keys for people, composed of the typed parts of `config_parts` and of the core."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flows.config.keys import (
    CohortKeys,
    DecodeKeys,
    EmbedExecution,
    EncoderFiles,
    EncoderKeys,
    FailurePolicy,
    FeatureChoice,
    FlowConfig,
    LabelKeys,
    Method,
    MethodKeys,
    OutKeys,
    PageKeys,
    PluginFile,
    ProtocolKeys,
    RayKeys,
    RunKeys,
    RunStoreKeys,
    StoreKeys,
    WorkersFit,
    check_least,
)
from flows.config.tracking import TrackingKeys
from mhim_core.cohort.options import SplitOptions, SplitScheme, TaskOptions
from mhim_core.errors import ConfigError
from mhim_core.mil.options import Activation, MhimOptions, ModelOptions
from mhim_core.mil.recipes import DEFAULT_RECIPE, recipe_defaults
from mhim_core.registry.names import is_reference
from mhim_core.slides.spec import SlidePolicy, TileSpec
from mhim_core.train.options import FitOptions
from mhim_core.train.plan import Stage


@dataclass(frozen=True, kw_only=True)
class CheckConfig(FlowConfig, LabelKeys, DecodeKeys, FailurePolicy, SlidePolicy, TileSpec, TaskOptions, CohortKeys):
    """mhim check: the cohort table and its slides, row by row."""

    pictures: str = ""
    """A folder or s3:// prefix for a picture of each slide with its tissue and tile grid; empty: none."""


@dataclass(frozen=True, kw_only=True)
class EmbedConfig(
    FlowConfig,
    EmbedExecution,
    EncoderFiles,
    FailurePolicy,
    SlidePolicy,
    TileSpec,
    EncoderKeys,
    StoreKeys,
    CohortKeys,
):
    """mhim embed: slides → one Parquet file of tile features per slide."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(
    FlowConfig,
    TrackingKeys,
    PluginFile,
    ProtocolKeys,
    LabelKeys,
    WorkersFit,
    MhimOptions,
    MethodKeys,
    TaskOptions,
    SplitOptions,
    FeatureChoice,
    OutKeys,
    StoreKeys,
    CohortKeys,
):
    """mhim train: bags → one model per fold and seed."""

    warm_start: str = ""
    """With scheme=final: start from the weights of this model, a run's out= or with registry= lung@champion; empty:
    start anew."""
    registry: str = ""
    """With warm_start=lung@champion: the model's registry, a folder or s3://bucket/prefix; otherwise unused."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_warm_start()
        if self.teacher and self.method is not Method.mhim:
            raise ConfigError(f"teacher={self.teacher}: only method=mhim has a teacher")

    def _check_warm_start(self) -> None:
        if is_reference(self.warm_start) and not self.registry:
            raise ConfigError(f"warm_start={self.warm_start} needs registry=, the registry that holds it")
        if self.warm_start and self.scheme is not SplitScheme.final:
            raise ConfigError(
                f"warm_start={self.warm_start} needs scheme=final: a model that has seen a fold's test patients cannot "
                "be estimated on them"
            )
        if self.warm_start and self.teacher:
            raise ConfigError("warm_start= starts stage 1, which teacher= takes from another run; give one of them")

    @classmethod
    def implied(cls, given: Mapping[str, object]) -> dict[str, Any]:
        """What the recipe among the given keys sets, for those that are not given."""
        recipe, aggregator = (str(given.get(name) or default) for name, default in _RECIPE_KEYS)
        return {key: one for key, one in recipe_defaults(recipe, aggregator).items() if key not in given}

    @classmethod
    def by_recipe(cls, **keys: Any) -> "TrainConfig":
        """The config that `mhim train key=value …` makes of these keys."""
        return cls(**cls.implied(keys) | keys)


_RECIPE_KEYS = (("recipe", DEFAULT_RECIPE), ("aggregator", ModelOptions.aggregator))


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(FlowConfig, TrackingKeys, PluginFile, RunKeys):
    """mhim evaluate: each slide by the model that held it out."""

    bootstrap_replicates: int = 2000
    """Replicates of the patient-clustered bootstrap intervals; 0: no intervals."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, 0, "bootstrap_replicates")


@dataclass(frozen=True, kw_only=True)
class PredictConfig(
    FlowConfig,
    PluginFile,
    EmbedExecution,
    EncoderFiles,
    FailurePolicy,
    SlidePolicy,
    PageKeys,
    CohortKeys,
    OutKeys,
):
    """mhim predict: new slides through a run's fold models, or through a registered model."""

    run: str = ""
    """The training run whose fold models predict (the out= of mhim train); empty: model= says what does."""
    model: str = ""
    """The registered model that predicts: lung@champion or lung@<version>; empty: run= says what does."""
    registry: str = ""
    """With model=: its registry, a folder or s3://bucket/prefix; otherwise unused."""
    store: str = ""
    """The feature store of the new slides; empty: the run's where it lies as the run recorded it, seen from the run's
    folder, else (and with model=) the folder features/ in out=."""

    def check_source(self) -> None:
        """ConfigError unless there is one source of models."""
        if bool(self.run) == bool(self.model):
            raise ConfigError(
                "give run=, a training run, or model=, such as lung@champion with its registry=: one of the two"
            )
        if self.model and not self.registry:
            raise ConfigError(f"model={self.model} needs registry=, the registry that holds it")


@dataclass(frozen=True, kw_only=True)
class ReportConfig(FlowConfig, TrackingKeys, PluginFile, PageKeys, RunKeys):
    """mhim report: one self-contained HTML page of a run."""


@dataclass(frozen=True, kw_only=True)
class DemoConfig(FlowConfig, RayKeys):
    """mhim demo: a made cohort through every station."""

    out: str = "demo"
    """The folder that receives slides, features, run, predictions and page."""
    num_slides: int = 24
    """Slides of the labelled cohort."""
    num_new: int = 8
    """Slides to predict afterwards, of patients that training never sees."""
    encoder: str = "efficientnet-lite0"
    """The tile encoder: efficientnet-lite0, hed-texture or timm/<model>."""
    aggregator: str = "abmil"
    """The bag aggregator."""
    method: Method = Method.mhim
    """mhim: two stages, masked hard instance mining; plain: the aggregator alone (stage 1)."""
    folds: int = 3
    """Cross-validation folds."""
    epochs: int = 20
    """Training epochs of each stage."""
    seed: int = 2021
    """Seed of splits and training."""
    demo_seed: int = 0
    """Seed of the painted slides."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.out or "://" in self.out:
            raise ConfigError(f"out={self.out}: the demo needs a local folder")
        check_least(self, 12, "num_slides")
        check_least(self, 2, "num_new")
        check_least(self, 0, "demo_seed")
        # what its stations would refuse, refused before slides are painted
        model = ModelOptions(aggregator=self.aggregator)
        if self.method is Method.mhim:
            model.require_mining()
        SplitOptions(folds=self.folds)
        FitOptions(epochs=self.epochs)


@dataclass(frozen=True, kw_only=True)
class ConvertConfig(FlowConfig):
    """mhim convert: published checkpoints from and to model files."""

    out: str
    """The file to write, a path or s3:// URI: .safetensors (a model file, from checkpoint=….pt) or .pt (published)."""
    checkpoint: str = ""
    """The file to read: a published .pt, or a model file .safetensors; empty: a fit of run=."""
    classes: tuple[str, ...] = ()
    """From a .pt: the names of its classes in the order of the logits, separated by commas."""
    embed_activation: Activation = Activation.gelu
    """From a .pt: non-linearity after the embedding layer, which no tensor says: gelu (v2), relu (v1) or tanh."""
    attention_activation: Activation = Activation.relu
    """From a .pt: non-linearity inside ABMIL's attention, which no tensor says: relu, gelu or tanh."""
    run: str = ""
    """Write a fit of this training run (its out=); empty: checkpoint= is read."""
    fold: int | None = None
    """With run=: the fit's fold; none: there is but one."""
    seed: int | None = None
    """With run=: the fit's seed; none: there is but one."""
    stage: Stage | None = None
    """With run=: plain (stage 1) or mhim (the student, with its teacher); none: there is but one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, 0, "fold")

    def check_direction(self) -> None:
        """ConfigError unless there is one source, and a target of the other kind."""
        if bool(self.checkpoint) == bool(self.run):
            raise ConfigError("give checkpoint=, the file to read, or run=, the training run whose fit is written")
        theirs, ours = (".pt", ".pth"), (".safetensors",)
        source, wanted = (theirs, ours) if self.imports else (ours, theirs)
        if not self.out.endswith(wanted) or (self.checkpoint and not self.checkpoint.endswith(source)):
            raise ConfigError(
                f"checkpoint={self.checkpoint or self.run} out={self.out}: a published .pt becomes a .safetensors, "
                "a .safetensors or a run's fit becomes a .pt"
            )
        if self.imports and not self.classes:
            raise ConfigError("classes= is needed, the names of the classes in the order of the checkpoint's logits")

    @property
    def imports(self) -> bool:
        """Whether a published checkpoint becomes a model file, or the other way round."""
        return self.checkpoint.endswith((".pt", ".pth"))


@dataclass(frozen=True, kw_only=True)
class CompareConfig(FlowConfig, PluginFile, RunStoreKeys):
    """mhim compare: paired differences between models that held out the same bags."""

    runs: str
    """Training runs (out= of mhim train), separated by commas, brackets optional: runs=[runs/a,runs/b]. Of one run
    alone all its models are compared."""
    out: str
    """The folder or s3://bucket/prefix that receives the table, the figure and comparison.json, anew each time."""
    models: str = ""
    """Models to compare, separated by commas (mhim, mhim teacher, plain), of every run that has them; empty: each
    run's reported model."""
    bootstrap_replicates: int = 2000
    """Replicates of the paired, patient-clustered bootstrap; 0: no intervals but DeLong's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, 0, "bootstrap_replicates")

    @property
    def run_uris(self) -> tuple[str, ...]:
        """Raises ConfigError where none is named, or one twice."""
        uris = _listed(self.runs)
        if not uris:
            raise ConfigError(f"runs={self.runs} names no run; write runs=runs/a,runs/b")
        if len(set(uris)) < len(uris):
            raise ConfigError(f"runs={self.runs} names a run twice; models= compares the models of one run")
        return uris

    @property
    def model_names(self) -> tuple[str, ...]:
        return _listed(self.models)


def _listed(text: str) -> tuple[str, ...]:
    """`[a, b]` or `a,b`."""
    inner = text.strip()
    if inner.startswith("[") and inner.endswith("]"):
        inner = inner[1:-1]
    return tuple(part.strip() for part in inner.split(",") if part.strip())
