"""The keys of `mhim submit` and `mhim jobs …`. Light: `--help` reads this file."""

import re
from dataclasses import dataclass

from flows.config.keys import FlowConfig
from mhim_core.errors import ConfigError

_ADDRESS = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+(/[A-Za-z0-9._~/-]*)?")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*")
_JOB = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, kw_only=True)
class ClusterKeys:
    """Where jobs go."""

    ray_address: str = "http://127.0.0.1:8265"
    """The cluster's dashboard, http://host:8265; a tunnel to a remote one ends at this default."""
    allow_insecure: bool = False
    """Go to a cluster that is neither on this machine nor guarded by a token: all who reach it can do as you do."""

    def __post_init__(self) -> None:
        if not _ADDRESS.fullmatch(self.ray_address):
            raise ConfigError(
                f"ray_address={self.ray_address!r} is not the address of a cluster's dashboard, such as "
                "http://host:8265; it holds no password, tokens come from RAY_AUTH_TOKEN"
            )


@dataclass(frozen=True, kw_only=True)
class SubmitConfig(FlowConfig, ClusterKeys):
    """mhim submit: a flow as a job of a Ray cluster."""

    flow: str
    """The flow to run there; the words that are no keys of submit are the flow's own."""
    wait: bool = False
    """Follow the job's log and end with its exit code; false: name the job and end."""
    image: str = ""
    """A container image that holds mhim, run by podman on every node; empty: the code installed here is sent along."""
    overrides: tuple[str, ...] = ()
    """The flow's own words, collected by the command line."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image and not _IMAGE.fullmatch(self.image):
            raise ConfigError(f"image={self.image!r} is not the name of an image, such as registry.example/mhim:0.1.0")


@dataclass(frozen=True, kw_only=True)
class JobsLsConfig(FlowConfig, ClusterKeys):
    """mhim jobs ls: every job that was submitted to the cluster."""


@dataclass(frozen=True, kw_only=True)
class JobKeys(ClusterKeys):
    job: str
    """The job's id, as mhim submit and mhim jobs ls print it."""

    def __post_init__(self) -> None:
        if self.job and not _JOB.fullmatch(self.job):
            raise ConfigError(f"job={self.job!r} is no job's id; mhim jobs ls lists them")


@dataclass(frozen=True, kw_only=True)
class JobsLogsConfig(FlowConfig, JobKeys):
    """mhim jobs logs: what a job has written."""

    follow: bool = False
    """Go on until the job is over, and end with its exit code; false: what there is now."""


@dataclass(frozen=True, kw_only=True)
class JobsStopConfig(FlowConfig, JobKeys):
    """mhim jobs stop: end a job; what it committed is kept."""
