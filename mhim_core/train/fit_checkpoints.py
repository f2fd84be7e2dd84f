"""Mid-fit checkpoints: `fits/<name>/attempts/<attempt>/epoch-NNNN.{safetensors,json}`, only ever read on rank 0.

`epoch-NNNN-step-NNNNNNN` is within the epoch after that one, with all steps of the fit counted. The record (.json) is
written after the data and holds its sha256: data without a record, or unlike it, was never completed. Each attempt
writes below its own name, so that two running at once do not disturb each other.
"""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from mhim_core.errors import IntegrityError, NotFoundError
from mhim_core.fingerprint import canonical_json, sha256
from mhim_core.records import parse_json
from mhim_core.storage import Storage, sweep_leftovers

KEEP = 2
"""Checkpoints kept per attempt: the newest, and one to fall back on."""


class Resumable(NamedTuple):
    """A verified checkpoint."""

    key: str
    data: bytes


class FitCheckpoints:
    """The checkpoints of one fit."""

    def __init__(self, storage: Storage, fit: str, identity: str, attempt: str) -> None:
        self._storage, self._identity = storage, identity
        self._root = f"fits/{fit}/attempts"
        self._attempt = attempt

    def save(self, epoch: int, data: bytes, step: int | None = None) -> str:
        """Keep the state after that epoch and return its key; older ones of this attempt beyond KEEP are removed.

        `step`: it is that many steps after the fit's start, within the next epoch.
        """
        within = "" if step is None else f"-step-{step:07d}"
        key = f"{self._root}/{self._attempt}/epoch-{epoch:04d}{within}.safetensors"
        self._storage.put(key, data)
        record = {"identity": self._identity, "sha256": sha256(data), "epoch": epoch}
        self._storage.put(_record_of(key), canonical_json(record | ({} if step is None else {"step": step})))
        own = [entry.key for entry in self._storage.list(f"{self._root}/{self._attempt}")]
        for old in sorted((key for key in own if key.endswith(".safetensors")), key=_position)[:-KEEP]:
            self._storage.delete(_record_of(old))
            self._storage.delete(old)
        return key

    def newest_first(self, warn: Callable[[str], None]) -> Iterator[Resumable]:
        """Valid checkpoints of this very fit by any attempt; every unusable one is warned about and passed over."""
        keys = [entry.key for entry in self._storage.list(self._root) if entry.key.endswith(".safetensors")]
        for key in sorted(keys, key=_position, reverse=True):
            try:
                yield Resumable(key, self._read(key))
            except (IntegrityError, NotFoundError) as error:
                warn(f"checkpoint passed over: {error}")

    def clear(self) -> None:
        """Remove all checkpoints of the fit, once it is finished; records first. Also what killed writers left."""
        for entry in self._storage.list(self._root):
            self._storage.delete(entry.key)
        sweep_leftovers(self._storage, self._root, min_age_s=0.0)

    def _read(self, key: str) -> bytes:
        where = self._storage.locate(key)
        try:
            record = parse_json(self._storage.get(_record_of(key)))
            identity, digest = record["identity"], record["sha256"]
        except NotFoundError:
            raise IntegrityError(f"{where} has no record, so it was never completed") from None
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(f"the record of {where} is damaged") from error
        if identity != self._identity:
            raise IntegrityError(f"{where} belongs to a fit with another configuration or data")
        data = self._storage.get(key)
        if sha256(data) != digest:
            raise IntegrityError(f"{where} does not match its record's sha256")
        return data


def _record_of(key: str) -> str:
    return key.removesuffix(".safetensors") + ".json"


def _position(key: str) -> tuple[int, int, str]:
    """How far a checkpoint is: epochs, then steps; one of a name that is none of ours is not far at all."""
    name = _NAME.search(key)
    return (int(name[1]), int(name[2] or 0), key) if name else (-1, 0, key)


_NAME = re.compile(r"/epoch-(\d+)(?:-step-(\d+))?\.safetensors$", re.ASCII)
