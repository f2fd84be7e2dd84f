"""The keys of `mhim import` and `mhim export`. Light: `--help` reads this file."""

from dataclasses import dataclass, field

from flows.config.keys import CohortKeys, FeatureChoice, check_least
from flows.config.roles import Role, part, role
from mhim_core.cohort.task_options import TableOptions
from mhim_core.errors import ConfigError
from mhim_core.slides.spec import MAX_MPP, MIN_MPP
from mhim_core.store.foreign.names import (
    IMAGE_FORMATS,
    CoordsUnit,
    formats_to_export,
    formats_to_import,
    names_encoder,
)


@dataclass(frozen=True, kw_only=True)
class FileExecution:
    """How files are converted."""

    threads: int = 4
    """Files that are converted at a time; each is held in memory with its features."""

    def __post_init__(self) -> None:
        check_least(self, 1, "threads")


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """mhim import: another tool's features in a store."""

    data: CohortKeys = part(CohortKeys, Role.identity)
    table: TableOptions = part(TableOptions, Role.identity)
    source: str = field(metadata=role(Role.place))
    """The folder of the tool's files, or s3://bucket/prefix; subfolders are looked through."""
    format: str = field(metadata=role(Role.identity) | {"choices": formats_to_import()})
    """The tool, or which of its files."""
    store: str = field(metadata=role(Role.output))
    """The feature store to write to: a folder or s3://bucket/prefix."""
    encoder: str = field(default="", metadata=role(Role.identity))
    """The name of the encoder, for files that do not state it (CLAM, MHIM-MIL); empty: as the files state it. In the
    store it is <format>/<name>."""
    coords_unit: CoordsUnit | None = field(default=None, metadata=role(Role.identity))
    """What coordinates are counted in, for files that do not state it (old ones of STAMP): level0_px or um; none: as
    the files, or their format, say."""
    tile_size_l0_px: int | None = field(default=None, metadata=role(Role.identity))
    """Side of a tile in level-0 pixels, for files that do not state it (CLAM); none: unknown then, and there are no
    heat maps."""
    default_mpp: float | None = field(default=None, metadata=role(Role.identity))
    """µm/px of level 0 of slides for which neither the table nor the file states it; none: unknown then, and
    coordinates in µm (STAMP) are refused."""
    suffix: str = field(default="", metadata=role(Role.identity))
    """What follows a slide's id in the name of its file, such as .features.h5; empty: the format's extension."""
    max_failed_fraction: float = field(default=0.1, metadata=role(Role.identity))
    """Share of the cohort's slides that may fail, or lack a file, before the exit code becomes 4 instead of 3."""
    partial_ok: bool = field(default=False, metadata=role(Role.identity))
    """End with exit code 0 instead of 3 when some slides failed, but no more than max_failed_fraction."""
    execution: FileExecution = part(FileExecution, Role.execution)

    def __post_init__(self) -> None:
        if not 0 <= self.max_failed_fraction <= 1:
            raise ConfigError(f"max_failed_fraction={self.max_failed_fraction} must lie between 0 and 1")
        check_least(self, 1, "tile_size_l0_px")
        if self.default_mpp is not None and not MIN_MPP <= self.default_mpp <= MAX_MPP:
            raise ConfigError(f"default_mpp={self.default_mpp} must lie between {MIN_MPP} and {MAX_MPP} µm/px")

    def check_format(self) -> None:
        """Raises ConfigError for a format that is none, and for one whose files name no encoder where no key does."""
        _check_format(self.format, formats_to_import(), "imported")
        if not self.encoder and not names_encoder(self.format):
            raise ConfigError(f"files of format={self.format} do not name their encoder; name it with encoder=")


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """mhim export: a store's features as another tool's files, or the tiles themselves."""

    store: str = field(metadata=role(Role.features))
    """The feature store: a folder or s3://bucket/prefix."""
    format: str = field(metadata=role(Role.identity) | {"choices": (*formats_to_export(), *IMAGE_FORMATS)})
    """The tool whose files are written, or tiles (PNG) or webdataset (PNG in .tar shards), which need cohort=."""
    out: str = field(metadata=role(Role.output))
    """The folder or s3://bucket/prefix to write to. What is there is never overwritten, but for the tool's own
    tables, to which slides are added."""
    features: FeatureChoice = part(FeatureChoice, Role.identity)
    cohort: str = field(default="", metadata=role(Role.file))
    """The cohort table, a path or an s3:// URI: its slides alone are exported, and the tool's tables are written with
    its patients and labels. Empty: all slides of the feature set, without tables."""
    labels: str = field(default="", metadata=role(Role.file))
    """A table of labels, with or without header, as in mhim train; empty: the cohort's own labels."""
    table: TableOptions = part(TableOptions, Role.identity)
    staging_dir: str = field(default="", metadata=role(Role.execution))
    """For tiles: the folder for temporary copies of s3:// slides; empty: the system's temporary folder."""
    tiles_per_shard: int = field(default=1000, metadata=role(Role.identity))
    """For webdataset: tiles in a .tar; a slide's last shard has fewer."""
    max_failed_fraction: float = field(default=0.1, metadata=role(Role.identity))
    """Share of the slides that may fail before the exit code becomes 4 instead of 3."""
    execution: FileExecution = part(FileExecution, Role.execution)

    def __post_init__(self) -> None:
        if not 0 <= self.max_failed_fraction <= 1:
            raise ConfigError(f"max_failed_fraction={self.max_failed_fraction} must lie between 0 and 1")
        check_least(self, 1, "tiles_per_shard")

    def check_format(self) -> None:
        """Raises ConfigError for a format that is none, and for keys that need cohort=."""
        _check_format(self.format, (*formats_to_export(), *IMAGE_FORMATS), "exported")
        if self.writes_tiles and not self.cohort:
            raise ConfigError(f"format={self.format} reads the slides; name them with cohort=")
        if self.labels and not self.cohort:
            raise ConfigError("labels= needs cohort=, the table of the slides")

    @property
    def writes_tiles(self) -> bool:
        """Whether pictures are written and not features."""
        return self.format in IMAGE_FORMATS


def _check_format(name: str, known: tuple[str, ...], what: str) -> None:
    if name in known:
        return
    if name in (*formats_to_import(), *formats_to_export(), *IMAGE_FORMATS):
        other = "exported" if what == "imported" else "imported"
        raise ConfigError(f"format={name} can be {other}, not {what}; {what} are {', '.join(known)}")
    raise ConfigError(f"format={name} is not one of {', '.join(known)}")
