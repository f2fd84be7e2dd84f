"""The keys of `mhim submit` and `mhim jobs …`. Light: `--help` reads this file."""

import re
from dataclasses import dataclass, field

from flows.config.roles import Role, by_hand, part, role
from mhim_core.errors import ConfigError

_ADDRESS = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+(/[A-Za-z0-9._~/-]*)?")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*")
_JOB = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, kw_only=True)
class ClusterKeys:
    """The cluster that jobs are sent to."""

    ray_address: str = field(default="http://127.0.0.1:8265", metadata=by_hand())
    """The dashboard of the cluster, http://host:8265; the default is where a tunnel to a remote one ends."""
    allow_insecure: bool = field(default=False, metadata=by_hand())
    """Use a cluster that is neither on this machine nor protected by a token: anyone who can reach it can run code on
    it."""

    def __post_init__(self) -> None:
        if not _ADDRESS.fullmatch(self.ray_address):
            raise ConfigError(
                f"ray_address={self.ray_address!r} is not the address of a cluster's dashboard, such as "
                "http://host:8265; it holds no password, tokens come from RAY_AUTH_TOKEN"
            )


@dataclass(frozen=True, kw_only=True)
class SubmitConfig:
    """mhim submit: a flow as a job of a Ray cluster."""

    cluster: ClusterKeys = part(ClusterKeys, Role.execution)
    flow: str = field(metadata=role(Role.identity))
    """The flow to run; words that are not keys of submit are passed to the flow."""
    wait: bool = field(default=False, metadata=role(Role.execution))
    """Follow the job's log and end with its exit code; false: print the job's id and end."""
    image: str = field(default="", metadata=role(Role.execution))
    """A container image that contains mhim, run by podman on every node; empty: the code installed here is sent with
    the job."""
    overrides: tuple[str, ...] = field(default=(), metadata=role(Role.identity))
    """Words for the flow, collected from the command line."""

    def __post_init__(self) -> None:
        if self.image and not _IMAGE.fullmatch(self.image):
            raise ConfigError(f"image={self.image!r} is not the name of an image, such as registry.example/mhim:0.1.0")


@dataclass(frozen=True, kw_only=True)
class JobsLsConfig:
    """mhim jobs ls: every job that was submitted to the cluster."""

    cluster: ClusterKeys = part(ClusterKeys, Role.execution)


@dataclass(frozen=True, kw_only=True)
class JobKeys:
    """Which job."""

    job: str
    """The job's id, as mhim submit and mhim jobs ls print it."""

    def __post_init__(self) -> None:
        if self.job and not _JOB.fullmatch(self.job):
            raise ConfigError(f"job={self.job!r} is no job's id; mhim jobs ls lists them")


@dataclass(frozen=True, kw_only=True)
class JobsLogsConfig:
    """mhim jobs logs: what a job has written."""

    cluster: ClusterKeys = part(ClusterKeys, Role.execution)
    which: JobKeys = part(JobKeys, Role.identity)
    follow: bool = field(default=False, metadata=role(Role.execution))
    """Follow the log until the job is over, and end with its exit code; false: print what there is now."""


@dataclass(frozen=True, kw_only=True)
class JobsStopConfig:
    """mhim jobs stop: end a job; what it committed is kept."""

    cluster: ClusterKeys = part(ClusterKeys, Role.execution)
    which: JobKeys = part(JobKeys, Role.identity)
