"""The keys of `mhim model …`. Light: `--help` reads this file."""

from dataclasses import dataclass, field

from flows.config.keys import ChosenModel, PluginFile
from flows.config.roles import Role, part, role
from flows.config.tracking import TrackingKeys
from flows.config.trust import SigningKeys, TrustKeys
from mhim_core.errors import ConfigError
from mhim_core.registry.names import check_name


@dataclass(frozen=True, kw_only=True)
class ModelListConfig:
    """mhim model ls: every model of the registry."""

    registry: str = field(metadata=role(Role.place))
    """The model registry: a folder or s3://bucket/prefix."""
    name: str = field(default="", metadata=role(Role.identity))
    """Only models of this name; empty: all models."""
    trust: TrustKeys = part(TrustKeys, Role.execution)


@dataclass(frozen=True, kw_only=True)
class ModelShowConfig:
    """mhim model show: a model's card, and which versions were champion when."""

    registry: str = field(metadata=role(Role.place))
    """The model registry: a folder or s3://bucket/prefix."""
    name: str = field(metadata=role(Role.identity))
    """The model: lung (its champion), lung@champion or lung@<version>."""
    trust: TrustKeys = part(TrustKeys, Role.execution)


@dataclass(frozen=True, kw_only=True)
class ModelRegisterConfig:
    """mhim model register: a finished run becomes a model of the registry."""

    registry: str = field(metadata=role(Role.output))
    """The model registry: a folder or s3://bucket/prefix."""
    plugin: PluginFile = part(PluginFile, Role.identity)
    tracking: TrackingKeys = part(TrackingKeys, Role.execution)
    trust: TrustKeys = part(TrustKeys, Role.execution)
    signing: SigningKeys = part(SigningKeys, Role.execution)
    name: str = field(metadata=role(Role.identity))
    """The model's name: letters, digits and ._- only."""
    run: str = field(metadata=role(Role.run))
    """The finished training run (the out= of mhim train) whose models make up the new one."""
    store: str = field(default="", metadata=role(Role.features) | {"neutral": ""})
    """The store that holds the run's features now; empty: where the run recorded it, relative to the run's folder."""
    fold: int | None = field(default=None, metadata=role(Role.identity))
    """Only the models of this fold; none: of every fold."""
    seed: int | None = field(default=None, metadata=role(Role.identity))
    """Only the models of this seed; none: of every seed."""
    chosen: ChosenModel = part(ChosenModel, Role.identity)

    def __post_init__(self) -> None:
        if self.fold is not None and self.fold < 0:
            raise ConfigError(f"fold={self.fold} must be at least 0; leave it out to take every fold")


@dataclass(frozen=True, kw_only=True)
class ModelPromoteConfig:
    """mhim model promote: make a model champion by hand, without the gate."""

    registry: str = field(metadata=role(Role.output))
    """The model registry: a folder or s3://bucket/prefix."""
    tracking: TrackingKeys = part(TrackingKeys, Role.execution)
    trust: TrustKeys = part(TrustKeys, Role.execution)
    signing: SigningKeys = part(SigningKeys, Role.execution)
    name: str = field(metadata=role(Role.identity))
    """The model's name."""
    version: str = field(metadata=role(Role.identity))
    """The version to promote, or its first digits, as mhim model ls shows it."""
    reason: str = field(default="", metadata=role(Role.identity))
    """A sentence for the record, without names of patients; empty: none."""


@dataclass(frozen=True, kw_only=True)
class ModelRollbackConfig:
    """mhim model rollback: make an earlier champion the champion again."""

    registry: str = field(metadata=role(Role.output))
    """The model registry: a folder or s3://bucket/prefix."""
    tracking: TrackingKeys = part(TrackingKeys, Role.execution)
    trust: TrustKeys = part(TrustKeys, Role.execution)
    signing: SigningKeys = part(SigningKeys, Role.execution)
    name: str = field(metadata=role(Role.identity))
    """The model's name."""
    to: str = field(metadata=role(Role.identity))
    """The version to go back to, or its first digits, as mhim model show lists them."""
    reason: str = field(default="", metadata=role(Role.identity))
    """A sentence for the record, without names of patients; empty: one that says what was rolled back."""


@dataclass(frozen=True, kw_only=True)
class ModelKeygenConfig:
    """mhim model keygen: a pair of keys for signing."""

    out: str = field(metadata=role(Role.identity))
    """The file of the private key, such as keys/retraining.pem; the public key lies beside it, with the ending .pub."""

    def __post_init__(self) -> None:
        if not self.out or "://" in self.out or self.out.endswith(".pub"):
            raise ConfigError(f"out={self.out}: name a local file for the private key, such as retraining.pem")


@dataclass(frozen=True, kw_only=True)
class ModelSignConfig:
    """mhim model sign: sign what a registry holds, if it was not signed when it was written."""

    registry: str = field(metadata=role(Role.output))
    """The model registry: a folder or s3://bucket/prefix."""
    name: str = field(metadata=role(Role.identity))
    """The model's name."""
    version: str = field(default="", metadata=role(Role.identity))
    """Sign only the card of this version, or its first digits; empty: all promotions and the cards they name."""
    signing: SigningKeys = part(SigningKeys, Role.execution)


def checked_name(name: str) -> str:
    """A model's name as typed. Raises ConfigError, with advice where a version was typed too."""
    if "@" in name:
        raise ConfigError(f"name={name}: the name alone, {name.partition('@')[0]}; the version has a key of its own")
    return check_name(name)
