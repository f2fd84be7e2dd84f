"""A flow's words as they must be on a cluster: files that travel with the job, places by their full address.

The keys that name files and places are listed here; a relative one would mean a folder that goes with the job.
"""

import dataclasses
import os
import posixpath
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cluster.storage import read_bytes
from flows.config.words import keys_of
from flows.runs.cohort import load_cohort
from flows.submission.tables import with_absolute_paths
from mhim_core.errors import ConfigError, NotFoundError, StorageError
from mhim_core.fingerprint import fingerprint, sha256, stated
from mhim_core.registry.names import is_reference

FILES = ("cohort", "labels", "split_files", "aggregator_file")
"""Small files that the flow reads: a local one is sent along."""
PLACES = (
    *("store", "out", "registry", "run", "runs", "teacher", "warm_start", "slides_prefix"),
    *("pictures", "checkpoint", "encoder_weights", "tracking_file"),
)
"""What every node must reach by itself."""
_DIGEST_DIGITS = 12


class JobWords(NamedTuple):
    """A flow's command on a cluster."""

    words: tuple[str, ...]
    files: Mapping[str, bytes]
    """What is sent along, by its place below the job's working directory."""
    stem: str
    """`<flow>-<digest>`: equal for what gives equal results from equal data."""
    notes: tuple[str, ...]


def job_words(flow: str, config: Any, words: Sequence[str], *, ship: bool) -> JobWords:
    """The command for a job. `config` is what the words were read into; `ship=False`: no file can travel.

    Raises CohortError for a local table that cannot be used, ConfigError for a file that is not there.
    """
    given = _Given(config, ship)
    keys = list(keys_of(type(config)))
    changed = {key: given.file(key) for key in FILES if key in keys and getattr(config, key)}
    places = {key: getattr(config, key) for key in PLACES if key in keys and is_place(key, getattr(config, key))}
    changed |= {key: _absolute(place) for key, place in places.items() if key != "runs"}
    if "runs" in places:
        changed["runs"] = ",".join(map(_absolute, config.run_uris))
    how = execution_keys(type(config))
    identity = {key: changed.get(key, getattr(config, key)) for key in keys if key not in how}
    whole = {"flow": flow, "config": stated(type(config), identity), "data": given.digests}
    digest = fingerprint(whole)[:_DIGEST_DIGITS]
    if "ray_address" in keys:
        changed["ray_address"] = "auto"
    kept = [word for word in words if word.partition("=")[0] not in changed]
    return JobWords(
        (*kept, *(f"{key}={value}" for key, value in changed.items())),
        given.files,
        f"{flow}-{digest}",
        tuple(given.notes),
    )


def is_place(key: str, value: str) -> bool:
    """Is it an address? lung@champion is none, though another value of warm_start= is."""
    return key in PLACES and bool(value) and not (key == "warm_start" and is_reference(value))


def execution_keys(kind: type) -> frozenset[str]:
    """The keys of a config that say where and how, and change no result: parts named or described as `Execution`."""
    parts = [
        owner
        for owner in kind.__mro__
        if dataclasses.is_dataclass(owner)
        and (owner.__name__.endswith("Execution") or (owner.__doc__ or "").startswith("Execution:"))
    ]
    return frozenset(field.name for owner in parts for field in dataclasses.fields(owner))


class _Given:
    """The files that the flow was given: collects what is sent along and what identifies the data."""

    def __init__(self, config: Any, ship: bool) -> None:
        self.config = config
        self.ship = ship
        self.files: dict[str, bytes] = {}
        self.digests: dict[str, list[str]] = {}
        self.notes: list[str] = []

    def file(self, key: str) -> str:
        """The key's value in the job."""
        value = getattr(self.config, key)
        uris = list(value) if isinstance(value, tuple) else [value]
        return ",".join(self._one(key, uri, f"inputs/{key}-{index}") for index, uri in enumerate(uris))

    def _one(self, key: str, uri: str, folder: str) -> str:
        address = _absolute(uri)
        if "://" in address:
            self._remember(key, address)
            return address
        try:
            data = read_bytes(address)
        except NotFoundError:
            raise ConfigError(f"{key}={uri}: there is no such file on this machine") from None
        if key == "cohort":
            load_cohort(address, with_files=False)  # its findings, now and not on the cluster
            if self.ship:
                data = with_absolute_paths(data, posixpath.basename(address), os.path.dirname(address))
        self.digests.setdefault(key, []).append(sha256(data))
        if not self.ship:
            return address
        place = f"{folder}/{posixpath.basename(address)}"
        self.files[place] = data
        return place

    def _remember(self, key: str, uri: str) -> None:
        """The content is identity where this machine can read it; the nodes may be allowed what it is not."""
        try:
            self.digests.setdefault(key, []).append(sha256(read_bytes(uri)))
        except NotFoundError:
            raise ConfigError(f"{key}={uri}: there is no such file") from None
        except StorageError as error:
            self.notes.append(f"{key}={uri} cannot be read here, so the job's id does not tell its content: {error}")


def _absolute(uri: str) -> str:
    return uri if "://" in uri else os.path.abspath(os.path.expanduser(uri))
