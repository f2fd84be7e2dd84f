"""The keys of `mhim store …`. Light: `--help` reads this file."""

from dataclasses import dataclass, field

from flows.config.keys import (
    CohortKeys,
    DecodeKeys,
    EmbedExecution,
    EncoderFiles,
    FeatureChoice,
    RayKeys,
    RegionKeys,
    SelectionKeys,
    check_least,
    check_on_disk,
)
from flows.config.roles import Role, part, role
from mhim_core.cohort.task_options import TableOptions


@dataclass(frozen=True, kw_only=True)
class StoreVerifyConfig:
    """mhim store verify: the store's commits and manifests held against its files."""

    store: str = field(metadata=role(Role.output))
    """The feature store: a folder or s3://bucket/prefix."""
    deep: bool = field(default=False, metadata=role(Role.identity))
    """Read every file and compare its sha256, which finds flipped bits too; false: names and lengths, by listing."""


@dataclass(frozen=True, kw_only=True)
class StoreRepairConfig:
    """mhim store repair: what a store has lost, embedded again to the same bytes."""

    data: CohortKeys = part(CohortKeys, Role.identity)
    table: TableOptions = part(TableOptions, Role.identity)
    store: str = field(metadata=role(Role.output))
    """The feature store: a folder or s3://bucket/prefix."""
    deep: bool = field(default=False, metadata=role(Role.identity))
    """Look for damage by reading every file, as mhim store verify deep=true does; false: by names and lengths."""
    regions: RegionKeys = part(RegionKeys, Role.identity)
    selection: SelectionKeys = part(SelectionKeys, Role.identity)
    encoder: EncoderFiles = part(EncoderFiles, Role.identity)
    ray: RayKeys = part(RayKeys, Role.execution)
    decode: DecodeKeys = part(DecodeKeys, Role.execution)
    embedding: EmbedExecution = part(EmbedExecution, Role.execution)


@dataclass(frozen=True, kw_only=True)
class StoreStatusConfig:
    """mhim status: how far the embeddings into a store have come."""

    store: str = field(metadata=role(Role.features))
    """The feature store: a folder or s3://bucket/prefix."""
    last: int = field(default=2, metadata=role(Role.identity))
    """Number of embeddings to show, the newest first."""

    def __post_init__(self) -> None:
        check_least(self, 1, "last")


@dataclass(frozen=True, kw_only=True)
class StoreLsConfig:
    """mhim store ls: the feature sets of a store, or the slides of one."""

    store: str = field(metadata=role(Role.features))
    """The feature store: a folder or s3://bucket/prefix."""
    features: FeatureChoice = part(FeatureChoice, Role.identity)


@dataclass(frozen=True, kw_only=True)
class StoreGcConfig:
    """mhim store gc: what nobody needs in a store."""

    store: str = field(metadata=role(Role.output))
    """The feature store: a folder or s3://bucket/prefix."""
    delete: bool = field(default=False, metadata=role(Role.identity))
    """Delete it; false: only list it."""


@dataclass(frozen=True, kw_only=True)
class StoreRmConfig:
    """mhim store rm: slides taken out of a store, named by slide= or by patient= with cohort=."""

    store: str = field(metadata=role(Role.output))
    """The feature store: a folder or s3://bucket/prefix."""
    slide: tuple[str, ...] = field(default=(), metadata=role(Role.identity))
    """The ids of slides to remove, separated by commas; empty: those of patient=."""
    patient: str = field(default="", metadata=role(Role.identity))
    """The id of a patient whose slides to remove, as cohort= has them; empty: none."""
    cohort: str = field(default="", metadata=role(Role.file))
    """The cohort table, a path or an s3:// URI, that says which slides are the patient's; empty: slide= names them."""
    table: TableOptions = part(TableOptions, Role.identity)
    older_manifests: bool = field(default=False, metadata=role(Role.identity))
    """Rewrite earlier manifests that name the slides too, so that nothing does; runs that are pinned to one of these
    are then refused, whether they use the slides or not. false: list them."""
    run: str = field(default="", metadata=role(Role.run))
    """A folder of a run or of predictions, or s3://bucket/prefix, in which to look for what holds the slides. Nothing
    in it is changed. Empty: none."""
    cache_dir: str = field(default="", metadata=role(Role.node_path))
    """The folder in which training keeps bags on this machine; empty: the system's temporary folder."""
    delete: bool = field(default=False, metadata=role(Role.identity))
    """Remove them; false: only say what would be removed."""

    def __post_init__(self) -> None:
        check_on_disk(self, "cache_dir")
