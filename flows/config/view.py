"""The keys of `mhim view`. Light: `--help` reads this file."""

import ipaddress
from dataclasses import dataclass, field

from flows.config.keys import ChosenModel, FeatureChoice, PluginFile
from flows.config.roles import Role, by_hand, part, role
from mhim_core.cohort.task_options import TableOptions
from mhim_core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """mhim view: a run, predictions or a store in the browser."""

    run: str = field(default="", metadata=role(Role.run))
    """The training run to look at (the out= of mhim train); with predictions=, the run that made them, where it has
    been moved."""
    predictions: str = field(default="", metadata=role(Role.place))
    """The predictions to look at (the out= of mhim predict)."""
    store: str = field(default="", metadata=role(Role.features))
    """The feature store to look at; with run= or predictions=, where their features are now. Empty: where they are
    recorded."""
    cohort: str = field(default="", metadata=role(Role.file))
    """A cohort table that says where the slides are now, and lists those that are not in the run; empty: where the run,
    the predictions or the store's commits say."""
    table: TableOptions = part(TableOptions, Role.identity)
    features: FeatureChoice = part(FeatureChoice, Role.identity)
    chosen: ChosenModel = part(ChosenModel, Role.identity)
    plugin: PluginFile = part(PluginFile, Role.identity)
    annotations: str = field(default="", metadata=role(Role.output))
    """The folder or s3://bucket/prefix in which drawn annotations are saved, as embed annotations= reads them; empty:
    annotations/ in run= or predictions=, and of a store none are saved."""
    read_only: bool = field(default=False, metadata=role(Role.execution))
    """Save nothing: annotations are shown and cannot be changed."""
    host: str = field(default="127.0.0.1", metadata=role(Role.execution) | by_hand("localhost", "::1"))
    """The address to serve on. Any other than this machine's own (127.0.0.1, ::1, localhost) asks everybody for a
    token, and sends slides over the network unencrypted."""
    port: int = field(default=8765, metadata=role(Role.execution))
    """The port to serve on; 0: a free one."""
    token: str = field(default="", metadata=role(Role.execution) | by_hand())
    """What a browser must know, 16 characters or more of letters, digits, - and _; empty: nothing on this machine's own
    address, and on another a token that is made up and printed. MHIM_VIEW_TOKEN in the environment says it as well,
    where other users cannot read it."""
    answer_within_s: float = field(default=20.0, metadata=role(Role.execution))
    """Seconds after which a page is told that a store or a slide is slow, instead of waiting on; what was asked for is
    still worked on."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port={self.port} must lie between 0 and 65535")
        if not 0 < self.answer_within_s <= 600:
            raise ConfigError(f"answer_within_s={self.answer_within_s} must lie above 0, and be 600 at most")
        if self.token and (len(self.token) < 16 or not self.token.replace("-", "").replace("_", "").isalnum()):
            raise ConfigError("token= must have 16 characters or more, of letters, digits, - and _")

    def check_source(self) -> None:
        """Raises ConfigError unless there is something to look at."""
        if not (self.run or self.predictions or self.store):
            raise ConfigError("give run=, predictions= or store=: what is to be looked at")

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
