"""The keys of `mhim store …`. Light: `--help` reads this file."""

from dataclasses import dataclass, field

from flows.config.keys import CohortKeys, DecodeKeys, EmbedExecution, EncoderFiles, RayKeys
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
    encoder: EncoderFiles = part(EncoderFiles, Role.identity)
    ray: RayKeys = part(RayKeys, Role.execution)
    decode: DecodeKeys = part(DecodeKeys, Role.execution)
    embedding: EmbedExecution = part(EmbedExecution, Role.execution)
