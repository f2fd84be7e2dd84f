"""The keys of `mhim model …`. Light: `--help` reads this file."""

from dataclasses import dataclass

from flows.config.keys import FlowConfig, PluginFile, RunStoreKeys
from flows.config.tracking import TrackingKeys
from mhim_core.errors import ConfigError
from mhim_core.registry.names import check_name


@dataclass(frozen=True, kw_only=True)
class RegistryKeys:
    registry: str
    """The model registry: a folder or s3://bucket/prefix."""


@dataclass(frozen=True, kw_only=True)
class ModelListConfig(FlowConfig, RegistryKeys):
    """mhim model ls: every model of the registry."""

    name: str = ""
    """Only the models of this name; empty: of every name."""


@dataclass(frozen=True, kw_only=True)
class ModelShowConfig(FlowConfig, RegistryKeys):
    """mhim model show: a model's card, and who was champion when."""

    name: str
    """The model: lung (its champion), lung@champion or lung@<version>."""


@dataclass(frozen=True, kw_only=True)
class ModelRegisterConfig(FlowConfig, TrackingKeys, PluginFile, RegistryKeys, RunStoreKeys):
    """mhim model register: a finished run becomes a model of the registry."""

    name: str
    """The model's name: letters, digits and ._- only."""
    run: str
    """The finished training run (the out= of mhim train) whose models vote."""
    fold: int | None = None
    """Take the models of this fold alone; none: of every fold."""
    seed: int | None = None
    """Take the models of this seed alone; none: of every seed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fold is not None and self.fold < 0:
            raise ConfigError(f"fold={self.fold} must be at least 0; leave it out to take every fold")


@dataclass(frozen=True, kw_only=True)
class ModelPromoteConfig(FlowConfig, TrackingKeys, RegistryKeys):
    """mhim model promote: a person makes a model champion, past the gate."""

    name: str
    """The model's name."""
    version: str
    """The version to promote, or its first digits, as mhim model ls shows it."""
    reason: str = ""
    """A sentence for the record; no patient's name. Empty: none."""


@dataclass(frozen=True, kw_only=True)
class ModelRollbackConfig(FlowConfig, TrackingKeys, RegistryKeys):
    """mhim model rollback: a champion of the past becomes champion again."""

    name: str
    """The model's name."""
    to: str
    """The version to go back to, or its first digits, as mhim model show lists them."""
    reason: str = ""
    """A sentence for the record; no patient's name. Empty: one that says what was taken back."""


def checked_name(name: str) -> str:
    """A model's name as typed. Raises ConfigError, with advice where a version was typed too."""
    if "@" in name:
        raise ConfigError(f"name={name}: the name alone, {name.partition('@')[0]}; the version has a key of its own")
    return check_name(name)
