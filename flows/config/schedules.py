"""The keys of `mhim schedule add`, `ls`, `rm`, `run-now` and `serve`. Light: `--help` reads this file."""

from dataclasses import dataclass
from enum import StrEnum

from flows.config.keys import FlowConfig
from flows.config.registry import RegistryKeys
from mhim_core.errors import ConfigError


class Target(StrEnum):
    """Who keeps the time."""

    local = "local"
    crontab = "crontab"
    kubernetes = "kubernetes"
    kuberay = "kuberay"


@dataclass(frozen=True, kw_only=True)
class ScheduleKeys:
    schedule: str
    """The schedule's id, as `mhim schedule ls` lists it."""


@dataclass(frozen=True, kw_only=True)
class ScheduleAddConfig(FlowConfig, RegistryKeys):
    """mhim schedule add: a flow, its words, and when."""

    flow: str
    """The flow to run: retrain, pipeline, embed, train, …; the words that are no keys of this command are its own."""
    cron: str
    """When, in five fields: minute, hour, day of month, month, day of week (0 and 7 are Sunday), like '0 2 * * 0'."""
    timezone: str = "UTC"
    """The time zone that the fields are meant in, like Europe/Berlin."""
    target: Target = Target.local
    """local: kept below the registry for `mhim schedule serve`; the others print a crontab line, a Kubernetes CronJob
    that submits to a Ray cluster, or a RayCronJob that makes one, and keep nothing."""
    image: str = ""
    """The container image of deploy/Dockerfile, as your cluster pulls it; needed for kubernetes and kuberay alone."""
    submit_to: str = "http://mhim-head-svc:8265"
    """kubernetes: the dashboard of the Ray cluster that the job is submitted to."""
    overrides: tuple[str, ...] = ()
    """The flow's own key=value words; you need not name this key."""


@dataclass(frozen=True, kw_only=True)
class ScheduleLsConfig(FlowConfig, RegistryKeys):
    """mhim schedule ls: what runs when, and how it went."""


@dataclass(frozen=True, kw_only=True)
class ScheduleRmConfig(FlowConfig, ScheduleKeys, RegistryKeys):
    """mhim schedule rm: no further run; what ran is kept."""


@dataclass(frozen=True, kw_only=True)
class ScheduleRunNowConfig(FlowConfig, ScheduleKeys, RegistryKeys):
    """mhim schedule run-now: once, here, at once."""

    force: bool = False
    """Run although a run of the schedule seems to be going on; false: that is refused (exit 5)."""


@dataclass(frozen=True, kw_only=True)
class ScheduleServeConfig(FlowConfig, RegistryKeys):
    """mhim schedule serve: run what is due, until it is stopped."""

    look_every_s: float = 20.0
    """Seconds between two looks at the schedules, at least 1: a run starts that late at most."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.look_every_s >= 1:
            raise ConfigError(f"look_every_s={self.look_every_s} must be at least 1")
