"""The typed parts that flat configurations are composed of, and `part`, which cuts one out again.

What identifies a result (the *identity* parts: tiling, encoder, model, method, optimisation, splits) and how it is
executed (addresses, workers, paths) are separate dataclasses; only identity is ever fingerprinted. Light: no torch, no
Ray.
"""

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar, cast

from cluster.session import check_address, check_fits_here
from mhim_core.errors import ConfigError
from mhim_core.mil.options import ModelOptions
from mhim_core.mil.plugins import Plugin, read_plugin
from mhim_core.mil.recipes import DEFAULT_RECIPE, recipe_defaults
from mhim_core.outcome import Outcome
from mhim_core.train.options import FitExecution, FitOptions
from mhim_core.types import ExitCode

Part = TypeVar("Part")


def part(config: object, kind: type[Part]) -> Part:
    """The part of a flat config that `kind` owns."""
    return kind(**{field.name: getattr(config, field.name) for field in dataclasses.fields(cast(Any, kind))})


def check_least(config: object, least: float, *names: str) -> None:
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
    """Try slides again that failed before with the same source and policies; false: only those whose failure said
    nothing of the slide (a full disk, storage), the others count as failed."""
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
        check_least(self, 1, "local_cpus")


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
        check_least(self, 1, "embed_actors", "slides_per_call")
        check_least(self, 0, "gpus_per_actor")

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
class RunStoreKeys:
    """Execution: where a run's features lie, which changes no result."""

    store: str = ""
    """The store that holds the run's features by now; empty: where the run recorded it, seen from the run's folder."""


@dataclass(frozen=True, kw_only=True)
class RunKeys(RunStoreKeys):
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
        check_least(self, 1, "workers", "threads_per_worker")
        check_least(self, 0, "gpus_per_worker", "cache_gib")

    def check_room(self) -> None:
        """ConfigError where a local Ray could never run that many workers."""
        if self.ray_address == "local":
            what = f"workers={self.workers}"
            what += f" with gpus_per_worker={self.gpus_per_worker:g}" if self.gpus_per_worker else ""
            check_fits_here(self.local_cpus, what, self.workers, self.gpus_per_worker)


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
        check_least(self, 1, "seeds")


@dataclass(frozen=True, kw_only=True)
class PageKeys:
    max_heatmaps: int = 24
    """Slides with a heat map and top tiles on the page; 0: none."""
    top_tiles: int = 8
    """Most attended tiles shown per slide; 0: none."""

    def __post_init__(self) -> None:
        check_least(self, 0, "max_heatmaps", "top_tiles")
