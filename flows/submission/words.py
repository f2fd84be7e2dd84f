"""A flow's words as they must be on a cluster: files that travel with the job, places by their full address.

Which keys those are, their roles say; a relative one would mean a folder that goes with the job.
"""

import os
import posixpath
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cluster.storage import read_bytes
from flows.config.flat import Key, flat, keys_of
from flows.config.roles import Role
from flows.config.words import CONFIG
from flows.runs.cohort import is_slide_folder, load_cohort
from flows.submission.tables import with_absolute_paths
from mhim_core.cohort.task_options import TableOptions
from mhim_core.errors import ConfigError, NotFoundError, StorageError
from mhim_core.fingerprint import fingerprint, sha256
from mhim_core.registry.names import is_reference

_DIGEST_DIGITS = 12


class JobWords(NamedTuple):
    """A flow's command on a cluster."""

    words: tuple[str, ...]
    files: Mapping[str, bytes]
    """What is sent along, by its place below the job's working directory."""
    stem: str
    """`<flow>-<digest>`: equal for what gives equal results from equal data."""
    notes: tuple[str, ...]
    as_typed: Mapping[str, tuple[str, Any]]
    """By key, where they differ: the value in the job, and the value that the key has here."""


def job_words(flow: str, config: Any, words: Sequence[str], *, ship: bool) -> JobWords:
    """The command for a job. `config` is what the words were read into; `ship=False`: no file can travel.

    Raises CohortError for a local table that cannot be used, ConfigError for a file that is not there.
    """
    shipped = _Inputs(config, ship)
    keys, values = keys_of(type(config)), flat(config)
    changed = {name: shipped.file(key, values[name]) for name, key in keys.items() if is_file(key, values[name])}
    places = {name: key.values(values[name]) for name, key in keys.items() if is_place(key, values[name])}
    changed |= {name: ",".join(map(_absolute, uris)) for name, uris in places.items()}
    identity = {
        name: changed.get(name, values[name])
        for name, key in keys.items()
        if changes_results(key) and not key.is_neutral(values[name])
    }
    digest = fingerprint({"flow": flow, "config": identity, "data": shipped.digests})[:_DIGEST_DIGITS]
    if "ray_address" in keys:
        changed["ray_address"] = "auto"
    # its own relative places are given anew as full ones, which win over it
    if config_file := _value_of(words, CONFIG.name):
        changed[CONFIG.name] = shipped.file(CONFIG, config_file)
    kept = [word for word in words if word.partition("=")[0] not in changed]
    return JobWords(
        (*kept, *(f"{key}={value}" for key, value in changed.items())),
        shipped.files,
        f"{flow}-{digest}",
        tuple(shipped.notes),
        {name: (value, values[name]) for name, value in changed.items() if values.get(name, value) != value},
    )


def is_file(key: Key, value: Any) -> bool:
    """Is it a small file, which travels with the job?"""
    return key.role is Role.file and bool(value)


def is_place(key: Key, value: Any) -> bool:
    """Is it an address that every node must reach? lung@champion is none, though another value of warm_start= is."""
    if key.role is None or not key.role.is_address or not value:
        return False
    return not (key.role is Role.model and is_reference(value))


def changes_results(key: Key) -> bool:
    """Does the result depend on it, or only where and how it is made?"""
    return key.role is None or key.role.changes_results


def _value_of(words: Sequence[str], name: str) -> str:
    return next((word.partition("=")[2] for word in words if word.startswith(f"{name}=")), "")


class _Inputs:
    """The files that the flow names: collects what is sent along and what identifies the data."""

    def __init__(self, config: Any, ship: bool) -> None:
        self.config = config
        self.ship = ship
        self.files: dict[str, bytes] = {}
        self.digests: dict[str, list[str]] = {}
        self.notes: list[str] = []

    def file(self, key: Key, value: Any) -> str:
        """The key's value in the job."""
        places = enumerate(key.values(value))
        return ",".join(self._one(key.name, uri, f"inputs/{key.name}-{index}") for index, uri in places)

    def _one(self, key: str, uri: str, folder: str) -> str:
        address = _absolute(uri)
        if key == "cohort" and is_slide_folder(uri):
            return address  # every node must reach it, as it must reach the slides of a table
        if "://" in address:
            self._remember(key, address)
            return address
        try:
            data = read_bytes(address)
        except NotFoundError:
            raise ConfigError(f"{key}={uri}: there is no such file on this machine") from None
        if key == "cohort":
            options = self.config.table
            load_cohort(address, with_files=False, options=self._own_table(options))  # its findings, now
            if self.ship:
                lies_in = os.path.dirname(address)
                data = with_absolute_paths(data, posixpath.basename(address), lies_in, self._own_table(options))
        self.digests.setdefault(key, []).append(sha256(data))
        if not self.ship:
            return address
        place = f"{folder}/{posixpath.basename(address)}"
        self.files[place] = data
        return place

    def _own_table(self, options: TableOptions) -> TableOptions:
        """How the cohort's own table is read, where another may give the labels."""
        return options.without_targets() if flat(self.config).get("labels") else options

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
