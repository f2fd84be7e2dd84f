"""The keys of `mhim schedule add`, `ls`, `rm`, `run-now` and `serve`. Light: `--help` reads this file."""

from dataclasses import dataclass, field
from enum import StrEnum

from flows.config.roles import Role, by_hand, part, role
from mhim_core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class AllowKeys:
    """What a person lets run on this machine."""

    allow: str = field(default="", metadata=by_hand())
    """The file of this machine that says which schedules may run here, writable by its owner alone; empty: in the state
    folder of this user (docs/operations.md)."""


class Target(StrEnum):
    """What starts the runs of a schedule."""

    local = "local"
    crontab = "crontab"
    kubernetes = "kubernetes"
    kuberay = "kuberay"


@dataclass(frozen=True, kw_only=True)
class ScheduleAddConfig:
    """mhim schedule add: which flow runs, with which words, and when."""

    allowing: AllowKeys = part(AllowKeys, Role.execution)
    registry: str = field(metadata=role(Role.output))
    """The model registry: a folder or s3://bucket/prefix."""
    flow: str = field(metadata=role(Role.identity))
    """The flow to run: retrain, pipeline, embed, train, …; words that are not keys of this command are passed to it."""
    cron: str = field(metadata=role(Role.identity))
    """When to run, in five fields: minute, hour, day of month, month, day of week (0 and 7 are Sunday), such as '0 2 *
    * 0'."""
    timezone: str = field(default="UTC", metadata=role(Role.identity))
    """The time zone of these fields, such as Europe/Berlin."""
    target: Target = field(default=Target.local, metadata=role(Role.identity))
    """local: stored in the registry for `mhim schedule serve`. The others store nothing and print a crontab line, a
    Kubernetes CronJob that submits to a Ray cluster, or a RayCronJob that starts one."""
    image: str = field(default="", metadata=role(Role.identity))
    """The container image of deploy/Dockerfile, as your cluster pulls it; needed only for kubernetes and kuberay."""
    submit_to: str = field(default="http://mhim-head-svc:8265", metadata=role(Role.execution))
    """kubernetes: the dashboard of the Ray cluster to submit the job to."""
    overrides: tuple[str, ...] = field(default=(), metadata=role(Role.identity))
    """The key=value words for the flow; collected from the command line."""


@dataclass(frozen=True, kw_only=True)
class ScheduleAllowConfig:
    """mhim schedule allow: let a schedule of the registry run on this machine."""

    allowing: AllowKeys = part(AllowKeys, Role.execution)
    registry: str = field(metadata=role(Role.place))
    """The model registry: a folder or s3://bucket/prefix."""
    schedule: str = field(metadata=role(Role.identity))
    """The schedule's id, as `mhim schedule ls` lists it."""


@dataclass(frozen=True, kw_only=True)
class ScheduleLsConfig:
    """mhim schedule ls: what runs when, and how it went."""

    allowing: AllowKeys = part(AllowKeys, Role.execution)
    registry: str = field(metadata=role(Role.place))
    """The model registry: a folder or s3://bucket/prefix."""


@dataclass(frozen=True, kw_only=True)
class ScheduleRmConfig:
    """mhim schedule rm: stop running it; records of past runs are kept."""

    allowing: AllowKeys = part(AllowKeys, Role.execution)
    registry: str = field(metadata=role(Role.output))
    """The model registry: a folder or s3://bucket/prefix."""
    schedule: str = field(metadata=role(Role.identity))
    """The schedule's id, as `mhim schedule ls` lists it."""


@dataclass(frozen=True, kw_only=True)
class ScheduleRunNowConfig:
    """mhim schedule run-now: run it once, now, on this machine."""

    allowing: AllowKeys = part(AllowKeys, Role.execution)
    registry: str = field(metadata=role(Role.output))
    """The model registry: a folder or s3://bucket/prefix."""
    schedule: str = field(metadata=role(Role.identity))
    """The schedule's id, as `mhim schedule ls` lists it."""
    force: bool = field(default=False, metadata=role(Role.execution))
    """Run even if a run of this schedule seems to be in progress; false: refuse (exit 5)."""


@dataclass(frozen=True, kw_only=True)
class ScheduleServeConfig:
    """mhim schedule serve: run schedules when they are due, until stopped."""

    allowing: AllowKeys = part(AllowKeys, Role.execution)
    registry: str = field(metadata=role(Role.output))
    """The model registry: a folder or s3://bucket/prefix."""
    look_every_s: float = field(default=20.0, metadata=role(Role.execution))
    """Seconds between two looks at the schedules, at least 1; a run starts at most this late."""

    def __post_init__(self) -> None:
        if not self.look_every_s >= 1:
            raise ConfigError(f"look_every_s={self.look_every_s} must be at least 1")
