"""The keys of `mhim doctor`. Light: `--help` reads this file."""

from dataclasses import dataclass, field

from flows.config.keys import EncoderKeys, RayKeys
from flows.config.roles import Role, part, role
from mhim_core.cohort.task_options import TableOptions


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """mhim doctor: whether this machine, and the places that are named, have what the other commands need."""

    store: str = field(default="", metadata=role(Role.output))
    """A feature store, run or registry to try out, a folder or s3://bucket/prefix: an object is written, read and
    deleted. Empty: none."""
    cohort: str = field(default="", metadata=role(Role.file))
    """A cohort table to read, a path or an s3:// URI; its slides are looked for and not opened. Empty: none."""
    table: TableOptions = part(TableOptions, Role.identity)
    encoder: EncoderKeys = part(EncoderKeys, Role.identity)
    session: RayKeys = part(RayKeys, Role.execution)
    start_ray: bool = field(default=True, metadata=role(Role.execution))
    """Start Ray on this machine, or connect to the one at ray_address; false: leave that out, which saves seconds."""
