"""The places that one training reads and writes, each opened once and handed on."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cluster.storage import open_storage
from flows.config.commands import TrainConfig
from flows.runs.folder import Pin, Run, maybe_record, pinned_manifest, read_run
from mhim_core.storage import Storage


@dataclass(frozen=True, kw_only=True)
class TrainingPlaces:
    """What `mhim train` works on. Make it with `open_places`; nothing is read before it is needed."""

    store: Storage
    """The features."""
    out: Storage
    """The run."""
    teacher_uri: str
    """The run that stage 1 is taken from; empty: none."""
    pinned: Pin | None = None
    """The features that the sweep which the run is part of is pinned to; None: it is part of none, or of a new one."""

    @cached_property
    def record(self) -> dict[str, Any] | None:
        """The record of the run that is in `out` already, which never changes; None: there is none yet."""
        return maybe_record(self.out)

    @property
    def pin(self) -> Pin | None:
        """The manifest that the training was started with; None: it is a new one."""
        return self.pinned or pinned_manifest(self.record)

    @cached_property
    def teacher(self) -> Run:
        """Raises InputError where there is no such run, IntegrityError where it is damaged."""
        return read_run(self.teacher_uri, spare_store=self.store.uri)


def open_places(config: TrainConfig) -> TrainingPlaces:
    """Raises ConfigError for what is no address."""
    return TrainingPlaces(
        store=open_storage(config.store), out=open_storage(config.out), teacher_uri=config.protocol.teacher
    )
