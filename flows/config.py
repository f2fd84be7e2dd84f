"""Every flow's configuration: flat keys for people, composed of the typed parts that own them.

What identifies a result (the *identity* parts: tiling, encoder, model, method, optimisation, splits) and how it is
executed (addresses, workers, paths) are separate dataclasses; a flow's config inherits them all, `part` cuts one out
again, and only identity is ever fingerprinted.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar, cast

from cluster.session import check_address, check_fits_here
from flows.tracking_config import TrackingKeys
from mhim_core.cohort.options import SplitOptions, SplitScheme, TaskOptions
from mhim_core.errors import ConfigError
from mhim_core.mil.options import Activation, MhimOptions, ModelOptions
from mhim_core.mil.plugins import Plugin, read_plugin
from mhim_core.mil.recipes import DEFAULT_RECIPE, recipe_defaults
from mhim_core.outcome import Outcome
from mhim_core.slides.spec import SlidePolicy, TileSpec
from mhim_core.train.options import FitExecution, FitOptions
from mhim_core.train.plan import Stage
from mhim_core.types import ExitCode

Part = TypeVar("Part")


def part(config: object, kind: type[Part]) -> Part:
    """The part of a flat config that `kind` owns."""
    return kind(**{field.name: getattr(config, field.name) for field in dataclasses.fields(cast(Any, kind))})


def _check_least(config: object, least: float, *names: str) -> None:
    """ConfigError for a field below `least`; None passes."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not value >= least:
            raise ConfigError(f"{name}={value} must be at least {least:g}")


class Method(StrEnum):
    """How bags become a model."""

    mhim = "mhim"
    plain = "plain"


class FlowConfig:
    """First base of every flow's config: runs the check of each part that the flow inherits."""

    def __post_init__(self) -> None:
        for owner in type(self).__mro__:
            if not issubclass(owner, FlowConfig) and "__post_init__" in vars(owner):
                vars(owner)["__post_init__"](self)


@dataclass(frozen=True, kw_only=True)
class PluginFile:
    aggregator_file: str = ""
    """A Python file of your own that registers aggregators (docs/method.md); empty: none. Naming it here runs it."""

    def __post_init__(self) -> None:
        self.plugin()  # the name of its aggregator must be known before the model's keys are checked

    def plugin(self) -> Plugin | None:
        """The loaded file. Raises InputError where it cannot be read or run."""
        return read_plugin(self.aggregator_file) if self.aggregator_file else None


@dataclass(frozen=True, kw_only=True)
class CohortKeys:
    cohort: str
    """The cohort table, CSV or Parquet: a path or an s3:// URI; paths in it are relative to the table."""


@dataclass(frozen=True, kw_only=True)
class LabelKeys:
    labels: str = ""
    """A table of labels, CSV with or without header: an id of a slide or patient, then its label; empty: the cohort's
    own."""


@dataclass(frozen=True, kw_only=True)
class StoreKeys:
    store: str
    """The feature store: a folder or s3://bucket/prefix."""


@dataclass(frozen=True, kw_only=True)
class EncoderKeys:
    """Identity: which tile encoder."""

    encoder: str = "efficientnet-lite0"
    """The tile encoder: efficientnet-lite0, hed-texture or timm/<model>."""
    encoder_revision: str = ""
    """The revision of a timm model on the hub; empty: the one timm pins."""


@dataclass(frozen=True, kw_only=True)
class EncoderFiles:
    encoder_weights: str = ""
    """A local weights file or folder for timm/<model>; empty: from the package or the hub. Its sha256 is identity."""


@dataclass(frozen=True, kw_only=True)
class FailurePolicy:
    max_failed_fraction: float = 0.1
    """The share of the cohort's slides that may fail before the exit code becomes 4 instead of 3."""
    retry_failed: bool = True
    """Try slides again that failed before with the same source and policies; false: count them as failed."""
    partial_ok: bool = False
    """End with 0 instead of 3 where some slides failed, no more than the fraction: schedulers take 3 for a failure."""
    strict: bool = False
    """A slide file that is not there ends the command before any work (exit 2); false: it fails as not_found."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_failed_fraction <= 1:
            raise ConfigError(f"max_failed_fraction={self.max_failed_fraction} must lie between 0 and 1")

    def exit_code_of(self, outcome: Outcome) -> ExitCode:
        """0, 3 (0 with partial_ok) or 4."""
        code = outcome.exit_code(self.max_failed_fraction)
        return ExitCode.OK if self.partial_ok and code is ExitCode.PARTIAL else code


@dataclass(frozen=True, kw_only=True)
class RayKeys:
    """Execution: where Ray is."""

    ray_address: str = "local"
    """local: a Ray of this command's own; auto: the cluster of this Ray job; host:6379: from a node of the cluster."""
    local_cpus: int | None = None
    """CPUs that a local Ray may use; none: all that this process may use."""

    def __post_init__(self) -> None:
        check_address(self.ray_address)
        _check_least(self, 1, "local_cpus")


@dataclass(frozen=True, kw_only=True)
class DecodeKeys:
    """Execution: slides on their way to the decoder."""

    decode_timeout_s: float = 300.0
    """Seconds a slide may show no progress, once copied and hashed, before its decoder is killed: failed as timeout."""
    staging_dir: str = ""
    """The node's folder for temporary copies of s3:// slides; empty: the system's temporary folder."""

    def __post_init__(self) -> None:
        if not self.decode_timeout_s > 0:
            raise ConfigError(f"decode_timeout_s={self.decode_timeout_s} must be above 0")


@dataclass(frozen=True, kw_only=True)
class EmbedExecution(DecodeKeys, RayKeys):
    embed_actors: int | None = None
    """Encoder actors; none: one per CPU (or one per GPU share), also of the nodes that join the cluster later."""
    gpus_per_actor: float = 0.0
    """GPU share of an encoder actor; 0: the encoder runs on the CPU."""
    slides_per_call: int = 4
    """Slides handed to an actor at once: the next is decoded while one is encoded."""

    def __post_init__(self) -> None:
        _check_least(self, 1, "embed_actors", "slides_per_call")
        _check_least(self, 0, "gpus_per_actor")

    def check_room(self) -> None:
        """ConfigError where a local Ray could never run that many encoder actors."""
        if self.ray_address == "local":
            what = "an encoder actor" if self.embed_actors is None else f"embed_actors={self.embed_actors}"
            what += f" with gpus_per_actor={self.gpus_per_actor:g}" if self.gpus_per_actor else ""
            check_fits_here(self.local_cpus, what, self.embed_actors or 1, self.gpus_per_actor)


@dataclass(frozen=True, kw_only=True)
class FeatureChoice:
    """Which of the store's feature sets: any key left out is open."""

    encoder: str | None = None
    """Use features of this encoder; none: whichever the store holds, if there is one."""
    target_mpp: float | None = None
    """Use features tiled at this resolution, µm/px; none: open."""
    tile_px: int | None = None
    """Use features of tiles of this many pixels; none: open."""
    overlap_px: int | None = None
    """Use features of tiles with this overlap in pixels; none: open."""
    min_tissue: float | None = None
    """Use features tiled with this least share of tissue; none: open."""
    feature_set: str | None = None
    """Use the feature set whose fingerprint begins with these digits, as a refusal lists it; none: open."""


@dataclass(frozen=True, kw_only=True)
class OutKeys:
    out: str
    """The run: a folder or s3://bucket/prefix. The same configuration again resumes it, another one is refused."""


@dataclass(frozen=True, kw_only=True)
class RunKeys:
    run: str
    """The training run: the out= of mhim train."""


@dataclass(frozen=True, kw_only=True)
class MethodKeys(ModelOptions):
    """Identity: the model and the method."""

    method: Method = Method.mhim
    """mhim: two stages, masked hard instance mining; plain: the aggregator alone (stage 1)."""

    def __post_init__(self) -> None:
        if self.method is Method.mhim:
            part(self, ModelOptions).require_mining()


@dataclass(frozen=True, kw_only=True)
class TrainExecution(RayKeys, FitExecution):
    workers: int = 1
    """Data-parallel training workers, at most global_batch."""
    gpus_per_worker: float = 0.0
    """GPU share of a training worker; 0: CPU."""
    threads_per_worker: int = 2
    """Torch threads of a worker on a CPU; never taken from the machine, since the last bits of a sum depend on it."""
    cache_gib: float = 4.0
    """Memory of each worker that keeps bags between epochs, GiB; 0: every epoch reads the store."""

    def __post_init__(self) -> None:
        _check_least(self, 1, "workers", "threads_per_worker")
        _check_least(self, 0, "gpus_per_worker", "cache_gib")

    def check_room(self) -> None:
        """ConfigError where a local Ray could never run that many workers."""
        if self.ray_address == "local":
            what = f"workers={self.workers}"
            what += f" with gpus_per_worker={self.gpus_per_worker:g}" if self.gpus_per_worker else ""
            check_fits_here(self.local_cpus, what, self.workers, self.gpus_per_worker)


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
class WorkersFit(TrainExecution, FitOptions):
    """Workers and global batch, which must fit together."""

    def __post_init__(self) -> None:
        if self.workers > self.global_batch:
            raise ConfigError(
                f"workers={self.workers} is more than global_batch={self.global_batch}: every worker takes whole bags; "
                f"set workers={self.global_batch}, or global_batch={self.workers} (which changes the recipe)"
            )


@dataclass(frozen=True, kw_only=True)
class ProtocolKeys:
    recipe: str = DEFAULT_RECIPE
    """Named options, below the keys you give yourself: mhim, mhim-v2 (IJCV 2025's text), mhim-v1 (ICCV 2023) or
    published-code (docs/method.md has the table)."""
    seeds: int = 1
    """Trainings of every fold, with seed, seed + 1, …; the folds are those of the first."""
    teacher: str = ""
    """Take the stage-1 models of another run (its out=) with the same folds, seeds and data; empty: train them."""
    split_files: tuple[str, ...] = ()
    """Predefined folds, one CSV each, separated by commas: id and split columns, or columns train, val, test of ids."""

    def __post_init__(self) -> None:
        recipe_defaults(self.recipe, "")
        _check_least(self, 1, "seeds")


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
        if self.registry and not self.warm_start:
            raise ConfigError("registry= is that of warm_start=lung@champion; give both")
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
        _check_least(self, 0, "bootstrap_replicates")


@dataclass(frozen=True, kw_only=True)
class PageKeys:
    max_heatmaps: int = 24
    """Slides with a heat map and top tiles on the page; 0: none."""
    top_tiles: int = 8
    """Most attended tiles shown per slide; 0: none."""

    def __post_init__(self) -> None:
        _check_least(self, 0, "max_heatmaps", "top_tiles")


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
    """The feature store of the new slides; empty: the run's, or with model= the folder features/ in out=."""

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
        _check_least(self, 12, "num_slides")
        _check_least(self, 2, "num_new")
        _check_least(self, 0, "demo_seed")
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
        _check_least(self, 0, "fold")

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
class CompareConfig(FlowConfig, PluginFile):
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
        _check_least(self, 0, "bootstrap_replicates")

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
