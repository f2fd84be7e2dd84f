"""A flow's words as a job on a cluster needs them: files are sent with the job, places have absolute addresses.

The roles of the keys determine which are which. A relative place would be in the job's own temporary folder.
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
    """The files that are sent along, by their path below the job's working directory."""
    stem: str
    """`<flow>-<digest>`: equal for jobs that give equal results from equal data."""
    notes: tuple[str, ...]
    as_typed: Mapping[str, tuple[str, Any]]
    """By key, where they differ: the value in the job, and the value that the key has here."""


def job_words(flow: str, config: Any, words: Sequence[str], *, ship: bool) -> JobWords:
    """The command for a job. `config`: the config that the words were read into; `ship=False`: no file is sent along.

    Raises CohortError for a local table that cannot be used, ConfigError for a missing file.
    """
    shipped = _Inputs(config, ship)
    keys, values = keys_of(type(config)), flat(config)
    changed = {name: shipped.file(key, values[name]) for name, key in keys.items() if is_file(key, values[name])}
    places = {name: key for name, key in keys.items() if is_place(key, values[name])}
    changed |= {name: key.changed(values[name], _absolute) for name, key in places.items()}
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
    """Whether the value names small files, which are sent with the job."""
    return key.role is Role.file and bool(value)


def is_place(key: Key, value: Any) -> bool:
    """Whether the value is an address that every node must reach; lung@champion, as a value of warm_start=, is not."""
    if key.role is None or not key.role.is_address or not value:
        return False
    return not (key.role is Role.model and is_reference(value))


def changes_results(key: Key) -> bool:
    """Whether the result depends on the key, and not only where and how it is computed."""
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
        """Options for reading the cohort's table; without targets if labels= gives them."""
        return options.without_targets() if flat(self.config).get("labels") else options

    def _remember(self, key: str, uri: str) -> None:
        """Add the content's digest to the job's identity if it can be read here; nodes may have other rights."""
        try:
            self.digests.setdefault(key, []).append(sha256(read_bytes(uri)))
        except NotFoundError:
            raise ConfigError(f"{key}={uri}: there is no such file") from None
        except StorageError as error:
            self.notes.append(f"{key}={uri} cannot be read here, so the job's id leaves its content out: {error}")


def _absolute(uri: str) -> str:
    return uri if "://" in uri else os.path.abspath(os.path.expanduser(uri))
