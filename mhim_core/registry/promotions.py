"""The champions of a name: numbered records that are only ever added, of which the highest counts.

A record's number is that of the champion it was judged against + 1, and put-if-absent lets only one writer win: so no
model replaces a champion that it was not judged against. Ages are measured by the store's own clock.

A file that is no link of this chain (a number without its predecessor, another name or number than its key says) is
refused by name, and with it the whole chain: which model is champion is then for a person to say. Who can write the
registry can still forge a link that fits; what a registry cannot prove is in docs/security.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from mhim_core.errors import ConflictError, InputError, IntegrityError
from mhim_core.fingerprint import canonical_json, to_plain
from mhim_core.records import parse_json, read_record
from mhim_core.registry.models import read_model_folder
from mhim_core.registry.names import number_in, numbered, promotions_prefix
from mhim_core.storage import Entry, Storage

SCHEMA = 1


class Kind(StrEnum):
    """Why a model became champion."""

    gate = "gate"
    """It passed the gate."""
    manual = "manual"
    """Promoted by hand."""
    rollback = "rollback"
    """Restored by hand; the champions after it were withdrawn."""


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """One record. Nothing in it varies between two writers of the same promotion."""

    name: str
    number: int
    """Counted from 1."""
    version: str
    base: int
    """The number of the champion it was judged against; 0: there was none."""
    kind: Kind
    by_flow: str
    """The flow or command that wrote it."""
    by_fingerprint: str = ""
    """Of that flow's inputs; empty: a command."""
    reason: str = ""
    """A sentence."""
    decision: dict[str, Any] = field(default_factory=dict)
    """The gate's checks in full; empty where no gate judged it."""
    figures: dict[str, Any] = field(default_factory=dict)
    """Of champion and challenger on the holdout."""
    promoted_s: float = 0.0
    """When it was written, by the store's clock; not part of the record's bytes."""

    def to_bytes(self) -> bytes:
        own = to_plain(self)
        del own["promoted_s"]
        return canonical_json(own | {"schema": SCHEMA})

    @classmethod
    def from_bytes(cls, data: bytes, where: str, promoted_s: float) -> "Promotion":
        """Raises IntegrityError naming `where` if the bytes are no promotion of this schema."""
        try:
            raw = parse_json(data)
            schema = raw.pop("schema")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise IntegrityError(f"{where} is not a promotion: {type(error).__name__}: {error}") from error
        if schema != SCHEMA:
            raise IntegrityError(f"{where} has another schema than {SCHEMA}")
        return read_record(cls, raw | {"promoted_s": promoted_s}, where)


class Promoted(NamedTuple):
    """The result of a promotion."""

    record: Promotion
    """The record under the number."""
    is_ours: bool
    """False: another model was promoted against the same champion; judge again, against the present champion."""


def champion(storage: Storage, name: str) -> Promotion | None:
    """The record with the highest number; None before the first.

    Raises IntegrityError for a file among the promotions that is no link of their chain, or a damaged record.
    """
    entries = _entries(storage, name)
    if not entries:
        return None
    record = _read(storage, name, entries[-1])
    return history(storage, name)[-1] if record.kind is Kind.rollback else record  # to a champion of the past


def history(storage: Storage, name: str) -> tuple[Promotion, ...]:
    """Every record, the oldest first. Raises IntegrityError as `champion`, for every record."""
    records = tuple(_read(storage, name, entry) for entry in _entries(storage, name))
    for record in records:
        if record.kind is Kind.rollback and record.version not in _versions(records[: record.base]):
            where = storage.locate(numbered(promotions_prefix(name), record.number))
            raise IntegrityError(f"{where} rolls back to {record.version}, which was never champion of {name}")
    return records


def promote(
    storage: Storage,
    name: str,
    version: str,
    *,
    base: int,
    by_flow: str,
    kind: Kind = Kind.gate,
    by_fingerprint: str = "",
    reason: str = "",
    decision: dict[str, Any] | None = None,
    figures: dict[str, Any] | None = None,
) -> Promoted:
    """Make `version` the champion after number `base` (0: the first).

    Where the number is taken, the same version and base is success (an interrupted promotion runs again); otherwise
    the existing record is returned and nothing changes. Raises InputError where the version is no model, or there is no
    champion of number `base`.
    """
    read_model_folder(storage, name, version)
    record = Promotion(
        name=name,
        number=base + 1,
        version=version,
        base=base,
        kind=kind,
        by_flow=by_flow,
        by_fingerprint=by_fingerprint,
        reason=reason,
        decision=decision or {},
        figures=figures or {},
    )
    known = {number_in(entry.key) for entry in _entries(storage, name)}
    if base and base not in known:
        raise InputError(f"{name} has no promotion of number {base}, against which {version} was to be judged")
    storage.put_if_absent(numbered(promotions_prefix(name), record.number), record.to_bytes())
    stands = _numbered(storage, name, record.number)
    return Promoted(stands, (stands.version, stands.base) == (version, base))


def rollback(storage: Storage, name: str, to: str, *, by_flow: str, reason: str = "") -> Promotion:
    """Make a former champion the champion again: a new record; none where it is the champion now.

    `to`: its version, or the first digits. Raises InputError where that is no former champion, ConflictError
    where another promotion happens at the same time.
    """
    records = history(storage, name)
    if not records:
        raise InputError(f"{name} has no champion: there is nothing to go back to")
    versions = {record.version for record in records if record.version.startswith(to)}
    if len(versions) != 1 or not to:
        listed = ", ".join(dict.fromkeys(record.version for record in reversed(records)))
        raise InputError(f"to={to} does not name one former champion of {name}; they are, newest first: {listed}")
    (version,) = versions
    now = records[-1]
    if now.version == version:
        return now
    promoted = promote(
        storage,
        name,
        version,
        base=now.number,
        by_flow=by_flow,
        kind=Kind.rollback,
        reason=reason or f"rolled back from {now.version}, number {now.number}",
    )
    if not promoted.is_ours:
        raise ConflictError(
            f"{name}: {promoted.record.version} became champion (number {promoted.record.number}) at the same moment; "
            "look at it, and roll back again if that is still what you want"
        )
    return promoted.record


def withdrawn(records: Sequence[Promotion]) -> frozenset[str]:
    """The versions withdrawn by a rollback and not made champion by hand since.

    All champions between the restored one and the rollback. No gate promotes them again: the same data would train the
    same model again.
    """
    versions: set[str] = set()
    for index, record in enumerate(records):
        if record.kind is Kind.rollback:
            past = _versions(records[:index])
            last = max(place for place, version in enumerate(past) if version == record.version)
            versions.update(past[last + 1 :])
        if record.kind is not Kind.gate:
            versions.discard(record.version)
    return frozenset(versions)


def _versions(records: Sequence[Promotion]) -> list[str]:
    return [record.version for record in records]


def _entries(storage: Storage, name: str) -> list[Entry]:
    """The chain: entry i has number i + 1. Raises IntegrityError naming a file that is no link of it."""
    for is_last_try in (False, True):
        entries = _listed(storage, name)
        # a listing that overlaps two promotions may show the second one alone
        wrong = next((entry for number, entry in enumerate(entries, 1) if not _is_link(entry, name, number)), None)
        if wrong is None:
            return entries
        if is_last_try:
            raise IntegrityError(
                f"{storage.locate(wrong.key)} does not follow the promotions of {name} before it; restore those that "
                "are missing, or remove this file if it does not belong there"
            )
    raise AssertionError("the last try returns or raises")


def _listed(storage: Storage, name: str) -> list[Entry]:
    entries = [entry for entry in storage.list(promotions_prefix(name)) if number_in(entry.key) is not None]
    return sorted(entries, key=lambda entry: number_in(entry.key) or 0)


def _is_link(entry: Entry, name: str, number: int) -> bool:
    return entry.key == numbered(promotions_prefix(name), number)


def _numbered(storage: Storage, name: str, number: int) -> Promotion:
    """Raises IntegrityError where it is not there: records are never deleted."""
    for entry in _entries(storage, name):
        if number_in(entry.key) == number:
            return _read(storage, name, entry)
    raise IntegrityError(f"{storage.locate(numbered(promotions_prefix(name), number))} was written but is gone")


def _read(storage: Storage, name: str, entry: Entry) -> Promotion:
    """Raises IntegrityError unless the record is what its key says."""
    where, number = storage.locate(entry.key), number_in(entry.key)
    record = Promotion.from_bytes(storage.get(entry.key), where, entry.modified_s)
    if (record.name, record.number) != (name, number):
        raise IntegrityError(f"{where} holds another promotion: number {record.number} of {record.name}")
    if record.base != record.number - 1:
        raise IntegrityError(f"{where} says that it was judged against number {record.base}, not its predecessor")
    return record
