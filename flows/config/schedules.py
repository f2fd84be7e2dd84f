"""The keys of `mhim schedule add`, `ls`, `rm`, `run-now` and `serve`. Light: `--help` reads this file."""

from dataclasses import dataclass, field
from enum import StrEnum

from flows.config.roles import Role, role
from mhim_core.errors import ConfigError


class Target(StrEnum):
    """Who keeps the time."""

    local = "local"
    crontab = "crontab"
    kubernetes = "kubernetes"
    kuberay = "kuberay"


@dataclass(frozen=True, kw_only=True)
class ScheduleAddConfig:
    """mhim schedule add: a flow, its words, and when."""

    registry: str = field(metadata=role(Role.output))
    """The model registry: a folder or s3://bucket/prefix."""
    flow: str = field(metadata=role(Role.identity))
    """The flow to run: retrain, pipeline, embed, train, …; the words that are no keys of this command are its own."""
    cron: str = field(metadata=role(Role.identity))
    """When, in five fields: minute, hour, day of month, month, day of week (0 and 7 are Sunday), like '0 2 * * 0'."""
    timezone: str = field(default="UTC", metadata=role(Role.identity))
    """The time zone that the fields are meant in, like Europe/Berlin."""
    target: Target = field(default=Target.local, metadata=role(Role.identity))
    """local: kept below the registry for `mhim schedule serve`; the others print a crontab line, a Kubernetes CronJob
    that submits to a Ray cluster, or a RayCronJob that makes one, and keep nothing."""
    image: str = field(default="", metadata=role(Role.identity))
    """The container image of deploy/Dockerfile, as your cluster pulls it; needed for kubernetes and kuberay alone."""
    submit_to: str = field(default="http://mhim-head-svc:8265", metadata=role(Role.execution))
    """kubernetes: the dashboard of the Ray cluster that the job is submitted to."""
    overrides: tuple[str, ...] = field(default=(), metadata=role(Role.identity))
    """The flow's own key=value words; you need not name this key."""


@dataclass(frozen=True, kw_only=True)
class ScheduleLsConfig:
    """mhim schedule ls: what runs when, and how it went."""

    registry: str = field(metadata=role(Role.place))
    """The model registry: a folder or s3://bucket/prefix."""


@dataclass(frozen=True, kw_only=True)
class ScheduleRmConfig:
    """mhim schedule rm: no further run; what ran is kept."""

    registry: str = field(metadata=role(Role.output))
    """The model registry: a folder or s3://bucket/prefix."""
    schedule: str = field(metadata=role(Role.identity))
    """The schedule's id, as `mhim schedule ls` lists it."""


@dataclass(frozen=True, kw_only=True)
class ScheduleRunNowConfig:
    """mhim schedule run-now: once, here, at once."""

    registry: str = field(metadata=role(Role.output))
    """The model registry: a folder or s3://bucket/prefix."""
    schedule: str = field(metadata=role(Role.identity))
    """The schedule's id, as `mhim schedule ls` lists it."""
    force: bool = field(default=False, metadata=role(Role.execution))
    """Run although a run of the schedule seems to be going on; false: that is refused (exit 5)."""


@dataclass(frozen=True, kw_only=True)
class ScheduleServeConfig:
    """mhim schedule serve: run what is due, until it is stopped."""

    registry: str = field(metadata=role(Role.output))
    """The model registry: a folder or s3://bucket/prefix."""
    look_every_s: float = field(default=20.0, metadata=role(Role.execution))
    """Seconds between two looks at the schedules, at least 1: a run starts that late at most."""

    def __post_init__(self) -> None:
        if not self.look_every_s >= 1:
            raise ConfigError(f"look_every_s={self.look_every_s} must be at least 1")
