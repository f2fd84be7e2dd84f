"""The typed parts that the commands' configs are composed of, beside the options of the core.

Every field has a role (`flows.config.roles`): its own, or that of the part it stands in. What identifies a result
(tiling, encoder, model, method, optimisation, splits) and how it is executed (addresses, workers, paths) are separate
dataclasses; only identity is ever fingerprinted. Light: no torch, no Ray.
"""

import math
import os
import re
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster.session import check_address, check_fits_here
from flows.config.flat import named_values, split_list
from flows.config.recipes import DEFAULT_RECIPE, check_recipe
from flows.config.roles import Role, by_hand, named, part, role
from mhim_core.embed.own_file import NAME as OWN
from mhim_core.embed.own_file import OwnFile
from mhim_core.embed.registry import is_encoder_name
from mhim_core.errors import ConfigError
from mhim_core.mil.model_options import ModelOptions
from mhim_core.mil.plugins import Plugin, read_plugin
from mhim_core.outcome import Outcome
from mhim_core.slides.remote import RemoteOptions, RemoteReads
from mhim_core.slides.spec import RULE_NAMES, TileSpec, TissueMethod
from mhim_core.train.fit_options import FitExecution, FitOptions
from mhim_core.train.prediction import PredictOptions, PredictWith
from mhim_core.types import ExitCode

if TYPE_CHECKING:  # numpy: --help reads this file
    from mhim_core.slides.segmenter import SegmenterFile


def check_least(config: object, least: float, *names: str) -> None:
    """Raises ConfigError for a field below `least`; None passes."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not value >= least:
            raise ConfigError(f"{name}={value} must be at least {least:g}")


def check_on_disk(config: object, *names: str) -> None:
    """Raises ConfigError for a field that names a bucket or server where only a folder of the machine will do."""
    for name in names:
        value: str = getattr(config, name)
        if "://" in value:
            raise ConfigError(f"{name}={value} must be a folder on the disk of the machine")


def here(folder: str) -> str:
    """The folder as every process finds it, whatever its own current folder is; "" stays."""
    return os.path.abspath(os.path.expanduser(folder)) if folder else ""


class Method(StrEnum):
    """How bags become a model."""

    mhim = "mhim"
    plain = "plain"


@dataclass(frozen=True, kw_only=True)
class PluginFile:
    """A user's own aggregators. Raises InputError if the file cannot be read or run."""

    aggregator_file: str = field(default="", metadata=role(Role.file) | by_hand())
    """A Python file of yours that registers aggregators (docs/method.md); empty: none. The file is executed."""

    def __post_init__(self) -> None:
        self.plugin()  # the name of its aggregator must be known before the model's keys are checked

    def plugin(self) -> Plugin | None:
        """The loaded file. Raises InputError if it cannot be read or run."""
        return read_plugin(self.aggregator_file) if self.aggregator_file else None


@dataclass(frozen=True, kw_only=True)
class CohortKeys:
    """Which slides."""

    cohort: str = field(metadata=role(Role.file))
    """The cohort table (CSV, xlsx or Parquet): a path or an s3:// URI; paths in it are relative to the table. Or a
    folder of slides, or s3://bucket/prefix/ with a slash at its end: every slide file below it."""


@dataclass(frozen=True, kw_only=True)
class LabelledCohort(CohortKeys):
    """Which slides, and their labels."""

    labels: str = field(default="", metadata=role(Role.file))
    """A table of labels (CSV or xlsx), with or without header: the id of a slide or patient, then its label; empty: the
    cohort's own labels."""


@dataclass(frozen=True, kw_only=True)
class EncoderFiles:
    """Where an encoder's weights are, for commands whose encoder is settled by a store, run or model."""

    encoder_weights: str = field(default="", metadata=role(Role.node_path) | named(is_encoder_name))
    """A local weights file or folder for timm/<model> or a published encoder, with several encoders
    timm/<model>=<path>,timm/<model>=<path>; empty: from the package or the hub. The sha256 of the weights is part of
    the encoder's identity."""
    encoder_file: str = field(default="", metadata=role(Role.node_path) | by_hand() | {"neutral": ""})
    """A TorchScript, torch.export or ONNX file of yours for encoder=own; empty: none. The file is executed. Its sha256
    is part of the encoder's identity."""

    def __post_init__(self) -> None:
        if self.encoder_file and self.encoder_weights:
            raise ConfigError(
                "encoder_file= is a whole encoder and encoder_weights= the weights of one: give one of them"
            )

    def weights_of(self, encoder: str) -> str | OwnFile | None:
        """What the core takes as this encoder's weights; None: that is not said."""
        if encoder == OWN:
            return self._own_file() if self.encoder_file else None
        paths = {item.name: item.value for item in named_values(self.encoder_weights, is_encoder_name)}
        return paths.get(encoder, paths.get("")) or None

    def _own_file(self) -> OwnFile:
        return OwnFile(path=self.encoder_file)


class EncoderRuntime(StrEnum):
    """What computes a tile encoder."""

    auto = "auto"
    torch = "torch"
    torch_bf16 = "torch_bf16"
    torch_fp16 = "torch_fp16"
    openvino = "openvino"
    openvino_bf16 = "openvino_bf16"


@dataclass(frozen=True, kw_only=True)
class EncoderKeys(EncoderFiles):
    """Which tile encoders, where their weights are, and what computes them.

    Raises ConfigError for an encoder that is named twice, for weights or a revision of which it is not clear whose
    they are, and for a file of one's own without encoder=own, or that without the file.
    """

    encoder: str = field(default="efficientnet-lite0", metadata=role(Role.identity, listed=True))
    """The tile encoder: efficientnet-lite0, hed-texture, a published one (mhim encoders lists them), timm/<model>, or
    own with encoder_file. For embed and doctor, several of them, separated by commas: each slide is read and decoded
    once for all, and each has its own features."""
    encoder_revision: str = ""
    """The revision of the encoder's repository on the hub, with several encoders timm/<model>=<revision>,…; empty: the
    one that mhim or timm pins, else the newest."""
    encoder_runtime: EncoderRuntime = field(default=EncoderRuntime.auto, metadata={"neutral": EncoderRuntime.torch})
    """torch; torch_bf16 and, on a GPU, torch_fp16: faster and coarser; openvino: twice as fast on a CPU, the last bits
    of features differ (extra openvino, not for hed-texture); openvino_bf16: faster still and coarser, on CPUs with
    bfloat16; auto: torch, except for efficientnet-lite0 without a GPU, where OpenVINO is installed, in a store that has
    no features with the same keys made by torch."""
    own_input_px: int = field(default=224, metadata={"neutral": 224})
    """With encoder=own: the side of the square that tiles are resized to, in pixels."""
    own_mean: str = field(default="0.485,0.456,0.406", metadata={"neutral": "0.485,0.456,0.406"})
    """With encoder=own: what is subtracted from red, green and blue, of values scaled to 0-1."""
    own_std: str = field(default="0.229,0.224,0.225", metadata={"neutral": "0.229,0.224,0.225"})
    """With encoder=own: what they are then divided by."""

    def __post_init__(self) -> None:
        names = self.names()
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"encoder= names {', '.join(repeated)} more than once")
        if bool(self.encoder_file) != (OWN in names):
            raise ConfigError(f"encoder={OWN} and encoder_file= belong together: give both, or neither")
        for key in ("encoder_weights", "encoder_revision"):
            if OWN in self._by_encoder(key):
                raise ConfigError(f"{key}= is not for encoder={OWN}, which is whole in encoder_file=")
        check_least(self, 1, "own_input_px")
        _three_numbers(self, "own_mean")
        if min(_three_numbers(self, "own_std")) <= 0:
            raise ConfigError(f"own_std={self.own_std} must be above 0")

    def _own_file(self) -> OwnFile:
        mean, std = _three_numbers(self, "own_mean"), _three_numbers(self, "own_std")
        return OwnFile(path=self.encoder_file, input_px=self.own_input_px, mean=mean, std=std)

    def names(self) -> tuple[str, ...]:
        """The encoders, one at least, in the order in which they were given."""
        return split_list(self.encoder) or (self.encoder,)

    def each(self) -> tuple["EncoderKeys", ...]:
        """The keys of every encoder by itself."""
        weights, revisions = self._by_encoder("encoder_weights"), self._by_encoder("encoder_revision")
        return tuple(
            replace(
                self,
                encoder=name,
                encoder_weights=weights.get(name, ""),
                encoder_revision=revisions.get(name, ""),
                encoder_file=self.encoder_file if name == OWN else "",
            )
            for name in self.names()
        )

    def require_one(self, command: str) -> None:
        """Raises ConfigError if there are several encoders."""
        if len(self.names()) > 1:
            raise ConfigError(
                f"encoder={self.encoder} names {len(self.names())} encoders, and {command} works with one; mhim embed "
                "takes several"
            )

    def _by_encoder(self, key: str) -> dict[str, str]:
        names, text = self.names(), getattr(self, key)
        values: dict[str, str] = {}
        for item in named_values(text, is_encoder_name):
            name = item.name or names[0]
            if not item.name and len(names) > 1:
                pattern = ",".join(f"{each}=…" for each in names if each not in _WHOLE) or "nothing: these need none"
                raise ConfigError(f"{key}={text} does not say which encoder it is for; write {key}={pattern}")
            if name not in names:
                raise ConfigError(f"{key}= has a value for {name}, which encoder={self.encoder} does not name")
            if name in values:
                raise ConfigError(f"{key}={text} has two values for {name}; give one")
            values[name] = item.value
        return values


_WHOLE = ("hed-texture", OWN)
"""Encoders without weights or revision of their own to name."""


def _three_numbers(config: object, name: str) -> tuple[float, ...]:
    """Raises ConfigError unless the key is three numbers with commas between them."""
    try:
        numbers = tuple(float(text) for text in getattr(config, name).split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != 3 or not all(map(math.isfinite, numbers)):
        raise ConfigError(f"{name}={getattr(config, name)} must be three numbers, such as 0.5,0.5,0.5")
    return numbers


@dataclass(frozen=True, kw_only=True)
class FailurePolicy:
    """How many slides may fail, and what that means for the exit code. Raises ConfigError for shares outside 0 to 1."""

    max_failed_fraction: float = 0.1
    """Share of the cohort's slides that may fail before the exit code becomes 4 instead of 3."""
    max_empty_fraction: float = 0.5
    """Share of the cohort's slides that may be without tissue; if there are more, they all count as failed (exit code 3
    or 4). 0: every such slide counts as failed; 1 disables the check. They are listed by name in any case."""
    retry_failed: bool = True
    """Retry slides that failed before with the same source and policies; false: retry only those whose failure had
    nothing to do with the slide (full disk, storage), and count the others as failed."""
    partial_ok: bool = False
    """End with exit code 0 instead of 3 when some slides failed, but no more than max_failed_fraction: for schedulers
    that take 3 for a failure."""
    strict: bool = False
    """Stop before any work (exit 2) if a slide file is missing; false: that slide fails as not_found."""

    def __post_init__(self) -> None:
        for name in ("max_failed_fraction", "max_empty_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}={getattr(self, name)} must lie between 0 and 1")

    def exit_code_of(self, outcome: Outcome) -> ExitCode:
        """The command's exit code for this outcome: 0, 3 (0 with partial_ok) or 4."""
        code = outcome.exit_code(self.max_failed_fraction, self.max_empty_fraction)
        return ExitCode.OK if self.partial_ok and code is ExitCode.PARTIAL else code


@dataclass(frozen=True, kw_only=True)
class RayKeys:
    """Which Ray a command uses."""

    ray_address: str = field(default="local", metadata=by_hand("auto"))
    """local: start Ray for this command only; auto: the cluster of this Ray job; host:6379: that cluster, from one of
    its nodes."""
    local_cpus: int | None = None
    """CPUs that a local Ray may use; none: all CPUs available to this process."""

    def __post_init__(self) -> None:
        check_address(self.ray_address)
        check_least(self, 1, "local_cpus")


@dataclass(frozen=True, kw_only=True)
class DecodeKeys:
    """Limits and places for decoding slides."""

    decode_timeout_s: float = 300.0
    """Seconds without progress, once a slide is copied and hashed, after which its decoder is killed and the slide
    fails as timeout."""
    staging_dir: str = ""
    """The node's folder for temporary copies of s3:// slides; empty: the system's temporary folder."""
    remote_reads: RemoteReads = RemoteReads.auto
    """What of an s3:// slide is fetched. auto: of TIFFs of JPEG tiles (SVS, generic TIFF) from 1 MiB on the header, the
    level that tissue is found on and the tiles with tissue, by ranges; all else, slides with a sha256 in the table and
    what is kept (slide_cache_gib) as a whole copy; copy: whole copies; ranges: as auto, of any size, never kept."""
    slide_cache_gib: float = 0.0
    """GiB of the node's disk, in staging_dir, where whole s3:// slides stay for the next command that reads them; the
    least recently used go first; 0: none stay."""

    def __post_init__(self) -> None:
        if not self.decode_timeout_s > 0:
            raise ConfigError(f"decode_timeout_s={self.decode_timeout_s} must be above 0")
        check_on_disk(self, "staging_dir")
        if not 0 <= self.slide_cache_gib < math.inf:
            raise ConfigError(f"slide_cache_gib={self.slide_cache_gib} must be a size in GiB, or 0 for none")

    def remote(self) -> RemoteOptions:
        """How slides at `s3://` are read."""
        return RemoteOptions(reads=self.remote_reads, cache_bytes=int(self.slide_cache_gib * 2**30))


@dataclass(frozen=True, kw_only=True)
class EmbedExecution:
    """How slides are embedded."""

    embed_actors: int | None = None
    """Number of encoder actors; none: one per CPU (or per GPU share), including nodes that join the cluster later."""
    gpus_per_actor: float | None = None
    """GPUs per encoder actor, a fraction to share one; 0: the encoder runs on the CPU; none, or auto: 1 where there is
    a GPU, except in a store whose features with the same keys were made on a CPU."""
    decoders_per_actor: int | None = None
    """Processes that decode slides for an encoder, each one slide at a time; none: one where the encoder runs on a CPU,
    and on a GPU as many as there are CPUs for it, at most 8."""
    slides_per_call: int = 4
    """Slides given to an actor at a time, at least as many as it has decoders; the next ones are decoded while one is
    encoded."""
    encode_timeout_s: float = 600.0
    """Seconds that an encoder, or several together, may take for a batch of tiles, 15 minutes more for a commit, and 5
    minutes and a second for each MB of weights more to load; then the process is killed and started anew, and a slide
    at which that happens twice fails as timeout."""

    def __post_init__(self) -> None:
        check_least(self, 1, "embed_actors", "decoders_per_actor", "slides_per_call", "encode_timeout_s")
        check_least(self, 0, "gpus_per_actor")

    def check_room(self, ray: RayKeys) -> None:
        """Raises ConfigError if a local Ray could never run that many encoder actors."""
        if ray.ray_address == "local":
            request = "an encoder actor" if self.embed_actors is None else f"embed_actors={self.embed_actors}"
            request += f" with gpus_per_actor={self.gpus_per_actor:g}" if self.gpus_per_actor else ""
            check_fits_here(ray.local_cpus, request, self.embed_actors or 1, self.gpus_per_actor or 0.0)


class Unannotated(StrEnum):
    """What becomes of a slide without an annotation where tiles depend on one."""

    fail = "fail"
    whole = "whole"


@dataclass(frozen=True, kw_only=True)
class RegionKeys:
    """Where the slides' annotations and masks are, and what else finds their tissue (docs/regions.md)."""

    annotations: str = field(default="", metadata=role(Role.place) | {"neutral": ""})
    """A folder or s3://bucket/prefix with an annotation of each slide, <slide_id>.geojson (QuPath) or .xml (ASAP), for
    roi, exclude and tile_classes; a cell of the table's column annotation goes before. Empty: that column only."""
    masks: str = field(default="", metadata=role(Role.place) | {"neutral": ""})
    """A folder or s3://bucket/prefix with a mask of each slide, <slide_id>.png or .tif, for tissue=mask; a cell of the
    table's column mask goes before. Empty: that column only."""
    unannotated: Unannotated = field(default=Unannotated.fail, metadata={"neutral": Unannotated.fail})
    """A slide without an annotation, where roi, exclude or tile_classes ask for one. fail: it fails as no_annotation;
    whole: it is taken as it is, without restriction."""

    coordinates: str = field(default="", metadata=role(Role.place) | {"neutral": ""})
    """A folder or s3://bucket/prefix with the places of each slide's tiles, which then are exactly these, as made by
    TRIDENT or CLAM (patches/<slide_id>_patches.h5) or in a table (<slide_id>.csv or .parquet: x, y in level-0 pixels);
    empty: tiles are a grid's (docs/regions.md)."""
    tile_size_l0_px: int | None = field(default=None, metadata={"neutral": None})
    """With coordinates=: side of a tile in level-0 pixels, for files that do not state it; none: they do."""
    tissue_file: str = field(default="", metadata=role(Role.file) | by_hand() | {"neutral": ""})
    """A Python file of yours with a function find_tissue(pixels), which then finds the tissue (docs/regions.md); its
    sha256 is part of the features' identity. Empty: none. The file is executed."""

    def segmenter(self) -> "SegmenterFile | None":
        """The file, read and run once. Raises InputError if that fails."""
        if not self.tissue_file:
            return None
        from mhim_core.slides.segmenter import read_segmenter

        return read_segmenter(self.tissue_file)

    def __post_init__(self) -> None:
        check_least(self, 1, "tile_size_l0_px")
        if self.tile_size_l0_px is not None and not self.coordinates:
            raise ConfigError("tile_size_l0_px= is of the files of coordinates=, which names none")

    def settled(self, spec: TileSpec, *, fixed: bool = False) -> TileSpec:
        """The spec with the sha256 of the tissue's file, and with tiles that are placed if coordinates= places them.

        `fixed`: the spec is a model's or a store's, and no tile of it can become another. Raises ConfigError where the
        spec asks for another finder, or for files that are not given.
        """
        return self._with_segmenter(self._with_places(spec, fixed=fixed))

    def _with_places(self, spec: TileSpec, *, fixed: bool) -> TileSpec:
        if not self.coordinates:
            if spec.placed:
                raise ConfigError(
                    "these tiles are at places that files name; give those of the slides with coordinates="
                )
            return spec
        if fixed:
            if not spec.placed:
                raise ConfigError(
                    "coordinates= would place tiles otherwise than those that are needed, which are a grid's"
                )
            return spec
        if spec.min_tissue == TileSpec().min_tissue:
            spec = replace(spec, min_tissue=0.0)
        return replace(spec, placed=True)

    def _with_segmenter(self, spec: TileSpec) -> TileSpec:
        segmenter = self.segmenter()
        if segmenter is None:
            if spec.tissue is TissueMethod.file:
                known = f" with sha256 {spec.tissue_sha256}" if spec.tissue_sha256 else ""
                raise ConfigError(f"tissue=file needs the file{known}; give it with tissue_file=")
            return spec
        if spec.tissue not in (TissueMethod.auto, TissueMethod.file):
            raise ConfigError(f"tissue_file={self.tissue_file} and tissue={spec.tissue.value} contradict each other")
        if spec.tissue_sha256 not in ("", segmenter.sha256):
            raise ConfigError(
                f"tissue_file={self.tissue_file} has sha256 {segmenter.sha256}; the tissue was found by the file with "
                f"{spec.tissue_sha256}"
            )
        return replace(spec, tissue=TissueMethod.file, tissue_sha256=segmenter.sha256)

    def refuse(self, because: str) -> None:
        """Raises ConfigError if any of these keys is set. `because`: why none of them has a meaning."""
        stated = [name for name in ("annotations", "masks", "coordinates", "tissue_file") if getattr(self, name)]
        stated += ["unannotated"] if self.takes_unannotated else []
        if stated:
            raise ConfigError(f"{because}: leave out {', '.join(f'{name}=' for name in stated)}")

    @property
    def takes_unannotated(self) -> bool:
        """Whether a slide without an annotation is let in."""
        return self.unannotated is Unannotated.whole


@dataclass(frozen=True, kw_only=True)
class SelectionKeys:
    """By what select_share= of a slide's tiles are chosen (docs/regions.md)."""

    select_by: str = field(default="", metadata={"neutral": ""})
    """Embed the share of each slide's tiles that is spread over all that the slide shows, by features of this encoder,
    or of the feature set with these first digits, which the store has of the same tiles; empty: not so."""
    select_run: str = field(default="", metadata=role(Role.run) | {"neutral": ""})
    """Embed the share with the highest attention of a run's models (the out= of mhim train), by the features that it
    was trained on, which the store has of the same tiles; a slide that the run knows is scored by the models that held
    its patient out. Empty: not so."""

    def __post_init__(self) -> None:
        if self.select_by and self.select_run:
            raise ConfigError("select_by= and select_run= choose tiles in two ways; give one of them")

    def refuse(self, because: str) -> None:
        """Raises ConfigError if any of these keys is set. `because`: why none of them has a meaning."""
        if stated := [name for name in ("select_by", "select_run") if getattr(self, name)]:
            raise ConfigError(f"{because}: leave out {stated[0]}=")

    @property
    def is_set(self) -> bool:
        """Whether tiles are to be chosen."""
        return bool(self.select_by or self.select_run)


@dataclass(frozen=True, kw_only=True)
class FeatureChoice:
    """Which of the store's feature sets to use; keys that are left out match any."""

    encoder: str | None = None
    """Use features of this encoder; none: any, if the choice is unique."""
    target_mpp: float | None = None
    """Use features tiled at this resolution, µm/px; none: any."""
    tile_px: int | None = None
    """Use features of tiles with sides of this many pixels; none: any."""
    overlap_px: int | None = None
    """Use features of tiles with this overlap in pixels; none: any."""
    min_tissue: float | None = None
    """Use features tiled with this minimum share of tissue; none: any."""
    tissue: TissueMethod | None = None
    """Use features of tiles that this tissue finder chose, glass or otsu; none: any."""
    feature_set: str | None = None
    """Use the feature set whose fingerprint begins with these digits, as the error message lists it; none: any."""

    @property
    def tiling(self) -> dict[str, Any]:
        """The tiling keys that are set, by name."""
        asked = {name: getattr(self, name) for name in ("target_mpp", "tile_px", "overlap_px", "min_tissue")}
        if self.tissue is not None and self.tissue is not TissueMethod.auto:
            asked["tissue.name"] = RULE_NAMES[self.tissue]
        return {name: value for name, value in asked.items() if value is not None}


class BagCaching(StrEnum):
    """Where training keeps bags between epochs."""

    auto = "auto"
    device = "device"
    memory = "memory"
    disk = "disk"
    none = "none"


@dataclass(frozen=True, kw_only=True)
class TrainExecution:
    """How fits are carried out."""

    checkpoints: FitExecution = part(FitExecution, Role.execution)
    workers: str = "1"
    """Data-parallel training workers, at most global_batch; or a range such as 1-8: as many as find room, and fewer
    where a worker is lost. The model is the same to the last bit on a CPU, and with pack_instances but for rounding."""
    gpus_per_worker: float = 0.0
    """GPUs per training worker; 0: CPU."""
    threads_per_worker: int = 2
    """Torch threads of a worker on a CPU. Not derived from the machine, since the last bits of a sum depend on it."""
    cache: BagCaching = BagCaching.auto
    """Where bags stay between epochs. auto: in memory if one worker has room for all, else on the node's disk until the
    run ends. memory: in each worker's. disk: the node's, for later commands too. device: on each worker's GPU, what has
    no room there in memory. none: read from the store in every epoch. Changes no result."""
    cache_gib: float = 4.0
    """Memory in GiB in which each worker keeps bags between epochs; 0: none are kept there."""
    cache_disk_gib: float = 50.0
    """Disk in GiB on which a node keeps bags, for cache=auto or disk; 0: none. What exceeds it is read from the store
    in every epoch. A full disk stops nothing."""
    cache_dir: str = ""
    """The node's folder for bags kept on disk, on a local disk, relative to the current folder; empty: the system's
    temporary folder."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "workers", str(self.workers))  # a program may give the number
        check_least(self, 1, "threads_per_worker")
        check_least(self, 0, "gpus_per_worker", "cache_gib", "cache_disk_gib")
        check_on_disk(self, "cache_dir")
        size = {BagCaching.memory: "cache_gib", BagCaching.disk: "cache_disk_gib"}.get(self.cache)
        if size is not None and getattr(self, size) == 0:
            raise ConfigError(f"cache={self.cache} with {size}=0 keeps nothing; set {size}, or cache=none")
        self.num_workers()

    def num_workers(self) -> "WorkerRange":
        """The fewest and the most workers."""
        match = _WORKERS.fullmatch(self.workers.strip())
        fewest, most = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= fewest <= most:
            raise ConfigError(f"workers={self.workers} must be a whole number from 1 on, or a range such as 1-8")
        return WorkerRange(fewest, most)

    def check_room(self, ray: RayKeys) -> None:
        """Raises ConfigError if a local Ray could never run that many workers."""
        if ray.ray_address == "local":
            request = f"workers={self.workers}"
            request += f" with gpus_per_worker={self.gpus_per_worker:g}" if self.gpus_per_worker else ""
            check_fits_here(ray.local_cpus, request, self.num_workers().fewest, self.gpus_per_worker)


class WorkerRange(NamedTuple):
    """How many training workers there may be."""

    fewest: int
    most: int


_WORKERS = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?", re.ASCII)


def check_workers(execution: TrainExecution, fit: FitOptions) -> None:
    """Raises ConfigError if workers and global batch do not fit together."""
    fewest, most = execution.num_workers()
    if most > fit.global_batch:
        enough = f"{fewest}-{fit.global_batch}" if fewest < min(most, fit.global_batch) else fit.global_batch
        raise ConfigError(
            f"workers={execution.workers} is more than global_batch={fit.global_batch}: every worker takes whole bags; "
            f"set workers={enough}, or global_batch={most} (which changes the recipe)"
        )


def check_method(method: Method, model: ModelOptions, teacher: str, prediction: PredictOptions) -> None:
    """Raises ConfigError for an aggregator, a teacher or a way to predict that the method cannot work with."""
    if method is Method.mhim:
        model.require_mining()
        return
    if teacher:
        raise ConfigError(f"teacher={teacher}: only method=mhim has a teacher")
    if prediction.predict_with in (PredictWith.pair, PredictWith.teacher):
        raise ConfigError(f"predict_with={prediction.predict_with}: method={method} has one model a fold")


@dataclass(frozen=True, kw_only=True)
class ProtocolKeys:
    """What is trained beside the options of a single fit: recipe, seeds, teacher, predefined folds."""

    recipe: str = DEFAULT_RECIPE
    """A named set of options, which the keys that you set override: mhim, mhim-v2 (the text of IJCV 2025), mhim-v1
    (ICCV 2023) or published-code (table in docs/method.md)."""
    seeds: int = 1
    """How many times each fold is trained, with seed, seed + 1, …, always on the folds of the first seed."""
    teacher: str = field(default="", metadata=role(Role.run))
    """Use the stage-1 models of another run (its out=) with the same folds, seeds and data as teachers; empty: train
    them."""
    split_files: tuple[str, ...] = field(default=(), metadata=role(Role.file))
    """Predefined folds, one CSV file each, separated by commas: with columns id and split, or with columns of ids
    train, val and test."""
    partial_splits: bool = field(default=False, metadata={"neutral": True})
    """Leave out ids in split files that the cohort does not have, and list them; false: such ids stop the command."""

    def __post_init__(self) -> None:
        check_recipe(self.recipe)
        check_least(self, 1, "seeds")


@dataclass(frozen=True, kw_only=True)
class ChosenModel:
    """Which model of a run a command works with, where not with the one that the run was started with."""

    predict_with: PredictWith | None = field(default=None, metadata={"neutral": None})
    """Of a run with method=mhim the model that is reported and predicts: student, pair (student and stage-1 model),
    plain (that stage-1 model) or teacher; none: as the run was trained to."""


@dataclass(frozen=True, kw_only=True)
class PageKeys:
    """What the HTML page shows of single slides, and where its pictures lie."""

    max_heatmaps: int = 24
    """Number of slides with a heat map and top tiles on the page; 0: none."""
    top_tiles: int = 8
    """Number of most attended tiles shown per slide; 0: none."""
    single_file: bool = field(default=False, metadata={"neutral": False})
    """Put the pictures into the page itself, one file to send by mail; false: they are files in a folder beside it."""
    page_mb: float = field(default=20.0, metadata={"neutral": 20.0})
    """What the page and its pictures may take together, in megabytes (10⁶ bytes): the more slides it shows, the smaller
    their pictures become. At least 1."""

    def __post_init__(self) -> None:
        check_least(self, 0, "max_heatmaps", "top_tiles")
        check_least(self, 1, "page_mb")

    def bytes_per_slide(self, num_slides: int) -> int:
        """What the pictures of one of them may take, of a cohort of `num_slides`."""
        from mhim_core.report.pictures import bytes_per_slide  # numpy, which no --help waits for

        return bytes_per_slide(self.page_mb, min(num_slides, self.max_heatmaps), inside=self.single_file)
