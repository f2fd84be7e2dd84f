"""What a store has lost: every commit and manifest held against what is listed, or with `deep` against what is read.

Everything in a store is append-only and written in the order feature file, commit, manifest. It is therefore listed in
the opposite order: whatever a listed record names was there before, so a run in progress makes nothing look missing.
"""

import threading
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from enum import StrEnum
from typing import NamedTuple

from mhim_core.errors import InputError, IntegrityError, NotFoundError
from mhim_core.fingerprint import sha256
from mhim_core.storage import Storage, leftovers
from mhim_core.store import layout
from mhim_core.store.feature_sets import FeatureSet
from mhim_core.store.manifest import manifest_versions, read_manifest
from mhim_core.store.parallel import map_all, read_all
from mhim_core.store.record import CommitRecord
from mhim_core.store.tombstones import removal_marks
from mhim_core.types import SlideId, Status


class Fault(StrEnum):
    """What is wrong with an object of a store."""

    MISSING = "missing"
    DAMAGED = "damaged"
    ORPHANED = "orphaned"
    """Nothing names it; it does no harm."""
    LEFT_BEHIND = "left_behind"
    """A temporary file of a killed writer, or of one at work; it does no harm."""
    REMOVED = "removed"
    """An earlier manifest names a slide that `mhim store rm` has taken out since; it is no loss."""


class ObjectKind(StrEnum):
    """The kinds of objects that are verified."""

    FEATURES = "features"
    COMMIT = "commit"
    MANIFEST = "manifest"
    FEATURE_SET = "feature_set"
    TEMPORARY = "temporary"


class FaultyObject(NamedTuple):
    """One object that is not as it should be."""

    fault: Fault
    part: ObjectKind
    key: str
    feature_set: str
    """Fingerprint; of an orphaned feature file its first digits."""
    slide_id: SlideId = SlideId("")
    """Empty for what concerns all slides."""
    message: str = ""
    record: CommitRecord | None = None
    """The slide's commit, from wherever it is still readable."""


class Audit(NamedTuple):
    """What was verified, and every finding in the order of `Fault`, each sorted by slide."""

    num_commits: int
    num_files: int
    num_bytes: int
    """Of the feature files that the commits name."""
    findings: tuple[FaultyObject, ...]

    def count(self, fault: Fault) -> int:
        return sum(finding.fault is fault for finding in self.findings)

    @property
    def lost(self) -> tuple[FaultyObject, ...]:
        """What is missing or damaged."""
        return tuple(finding for finding in self.findings if finding.fault in (Fault.MISSING, Fault.DAMAGED))


def audit(storage: Storage, *, deep: bool = False) -> Audit:
    """Hold the whole store against its own records. `deep`: read every file and record and compare its sha256.

    Costs a listing, the newest manifest of each feature set and the commits that it does not name; `deep`, all bytes.
    """
    manifests = _keys_by_set(storage, layout.MANIFESTS)
    commits = _keys_by_set(storage, layout.COMMITS)
    findings = list(_feature_set_findings(storage, {*manifests, *commits}))
    records: dict[str, CommitRecord] = {}
    unread: set[SlideId] = set()
    for fingerprint in sorted({*manifests, *commits}):
        own = _audit_set(storage, fingerprint, commits.get(fingerprint, {}), deep=deep)
        findings += own.findings
        records |= own.records
        unread |= {finding.slide_id for finding in own.findings if finding.fault is Fault.DAMAGED}
    sizes = {entry.key: entry.num_bytes for entry in storage.list(layout.FEATURES)}
    named = {record.key: record for record in records.values() if record.status is Status.OK}
    findings += file_findings(storage, named.values(), sizes, deep=deep)
    for key in sizes.keys() - named.keys():
        _, fingerprint, slide_id, _ = (*key.split("/"), "", "", "")[:4]
        if slide_id not in unread:  # an unreadable commit may name it
            findings.append(FaultyObject(Fault.ORPHANED, ObjectKind.FEATURES, key, fingerprint, SlideId(slide_id)))
    findings += [FaultyObject(Fault.LEFT_BEHIND, ObjectKind.TEMPORARY, key, "") for key in leftovers(storage)]
    order = list(Fault)
    findings.sort(key=lambda finding: (order.index(finding.fault), finding.slide_id, finding.key))
    return Audit(len(records), len(named), sum(record.num_bytes for record in named.values()), tuple(findings))


def file_findings(
    storage: Storage, records: Iterable[CommitRecord], sizes: Mapping[str, int], *, deep: bool = False
) -> list[FaultyObject]:
    """Each record's feature file that is not listed in `sizes` (bytes by key), or not with the committed length.

    `deep`: those of the right length are read, side by side, and their sha256 compared.
    """
    findings, listed = [], []
    for record in records:
        if record.key not in sizes:
            findings.append(_file_finding(Fault.MISSING, record, "the feature file is not there"))
        elif sizes[record.key] != record.num_bytes:
            message = f"{sizes[record.key]:,} bytes, committed were {record.num_bytes:,}"
            findings.append(_file_finding(Fault.DAMAGED, record, message))
        else:
            listed.append(record)
    if deep:
        findings += [finding for finding in map_all(lambda record: _read(storage, record), listed) if finding]
    return findings


def first_damage(storage: Storage, records: Iterable[CommitRecord], stop: threading.Event) -> FaultyObject | None:
    """The first record whose feature file is not there or not of its sha256, read one by one until `stop` is set."""
    for record in records:
        if stop.is_set():
            return None
        if finding := _read(storage, record):
            return finding
    return None


def list_sizes(storage: Storage, records: Collection[CommitRecord], num_slides: int) -> dict[str, int]:
    """Bytes by key of the feature files around these records, of a set with `num_slides` slides in all.

    One listing of the set, or one of each slide's folder, side by side, where that takes fewer round trips.
    """
    sets = {layout.features_prefix(record.feature_set) for record in records}
    slides = {f"{layout.features_prefix(record.feature_set)}/{record.slide_id}" for record in records}
    by_slide = len(slides) // _LISTINGS_AT_ONCE < num_slides // _KEYS_PER_PAGE
    pages = map_all(lambda prefix: list(storage.list(prefix)), sorted(slides if by_slide else sets))
    return {entry.key: entry.num_bytes for page in pages for entry in page}


_KEYS_PER_PAGE = 1000
"""Of an object store's listing, whose pages come one after another."""
_LISTINGS_AT_ONCE = 16


class _SetAudit(NamedTuple):
    records: dict[str, CommitRecord]
    """By commit key: every record of the set that is readable anywhere."""
    findings: list[FaultyObject]


def _keys_by_set(storage: Storage, prefix: str) -> dict[str, dict[str, int]]:
    """Bytes by key of what lies below `<prefix>/<fingerprint>/`, by fingerprint."""
    keys: dict[str, dict[str, int]] = defaultdict(dict)
    for entry in storage.list(prefix):
        fingerprint = entry.key.split("/")[1]
        if layout.is_fingerprint(fingerprint):
            keys[fingerprint][entry.key] = entry.num_bytes
    return dict(keys)


def _feature_set_findings(storage: Storage, fingerprints: Collection[str]) -> Iterator[FaultyObject]:
    keys = {layout.feature_set_key(fingerprint): fingerprint for fingerprint in fingerprints}
    present = read_all(storage, keys)
    for key, fingerprint in sorted(keys.items()):
        if key not in present:
            message = "what the fingerprint stands for is not there: `mhim embed` with the same keys writes it again"
            yield FaultyObject(Fault.MISSING, ObjectKind.FEATURE_SET, key, fingerprint, message=message)
            continue
        try:
            if FeatureSet.from_json(present[key]).fingerprint != fingerprint:
                raise IntegrityError("it describes another feature set than its name says")
        except (IntegrityError, InputError) as error:
            yield FaultyObject(Fault.DAMAGED, ObjectKind.FEATURE_SET, key, fingerprint, message=str(error))


def _audit_set(storage: Storage, fingerprint: str, commits: Mapping[str, int], *, deep: bool) -> _SetAudit:
    """The set's manifests and commits. The newest readable manifest stands for the commits that it names."""
    findings: list[FaultyObject] = []
    newest: dict[str, CommitRecord] = {}
    older: dict[str, CommitRecord] = {}
    unnamed = set(commits)
    versions = manifest_versions(storage, fingerprint)
    for version in sorted({*range(1, max(versions, default=0))} - {*versions}):
        key = layout.manifest_key(fingerprint, version)
        findings.append(
            FaultyObject(Fault.MISSING, ObjectKind.MANIFEST, key, fingerprint, message="later versions are there")
        )
    for version in sorted(versions, reverse=True):
        if newest and not unnamed and not deep:
            break
        slides = None if deep or not newest else {layout.slide_of(key) for key in unnamed}
        try:
            entries = read_manifest(storage, fingerprint, version=version, only=slides).entries
        except IntegrityError as error:
            key = layout.manifest_key(fingerprint, version)
            findings.append(FaultyObject(Fault.DAMAGED, ObjectKind.MANIFEST, key, fingerprint, message=str(error)))
            continue
        named = {record.commit_key: record for record in entries.values()}
        older |= {key: record for key, record in named.items() if key not in newest}
        newest = newest or named
        unnamed -= named.keys()
    records = older | newest if deep else newest | {key: older[key] for key in older.keys() & commits.keys()}
    marks = removal_marks(storage, fingerprint) if records.keys() - commits.keys() else frozenset()
    removed = {
        key
        for key in records.keys() - commits.keys() - newest.keys()
        if layout.removal_key(fingerprint, records[key].slide_id) in marks
    }
    findings += [_removed_finding(records.pop(key)) for key in removed]
    findings += _commit_findings(storage, fingerprint, commits, records, marks, deep=deep)
    for key in unnamed:
        message = "no manifest names it: `mhim embed` with its cohort table does"
        findings.append(
            FaultyObject(Fault.ORPHANED, ObjectKind.COMMIT, key, fingerprint, layout.slide_of(key), message)
        )
    return _SetAudit(records, findings)


def _commit_findings(
    storage: Storage,
    fingerprint: str,
    commits: Mapping[str, int],
    records: dict[str, CommitRecord],
    marks: Collection[str],
    *,
    deep: bool,
) -> Iterator[FaultyObject]:
    """The set's commits that are not there or unreadable. Those that no manifest stands for are added to `records`."""
    for key in records.keys() - commits.keys():
        record = records[key]
        message = "a manifest names the commit, and it is not there"
        if layout.removal_key(fingerprint, record.slide_id) in marks:
            message += f"; if its removal was interrupted, `mhim store rm slide={record.slide_id}` finishes it"
        yield FaultyObject(Fault.MISSING, ObjectKind.COMMIT, key, fingerprint, record.slide_id, message, record)
    to_read = [key for key, num_bytes in commits.items() if deep or key not in records or num_bytes == 0]
    for key, data in read_all(storage, to_read).items():
        in_manifest = records.get(key)
        try:
            record = _checked_record(key, data, in_manifest)
        except (IntegrityError, InputError) as error:
            slide_id = layout.slide_of(key)
            yield FaultyObject(Fault.DAMAGED, ObjectKind.COMMIT, key, fingerprint, slide_id, str(error), in_manifest)
        else:
            records.setdefault(key, record)


def _removed_finding(record: CommitRecord) -> FaultyObject:
    message = "it was removed on purpose, and an earlier manifest still names it"
    part = ObjectKind.COMMIT
    return FaultyObject(Fault.REMOVED, part, record.commit_key, record.feature_set, record.slide_id, message)


def _checked_record(key: str, data: bytes, in_manifest: CommitRecord | None) -> CommitRecord:
    record = CommitRecord.from_json(data, "the commit")
    if record.commit_key != key:
        raise IntegrityError("it is the commit of another slide, source or feature set than its name says")
    if record.status is Status.OK and record.key != record.features_key:
        raise IntegrityError(f"it names the feature file {record.key!r}, which is not the slide's")
    if in_manifest is not None and _content(record) != _content(in_manifest):
        raise IntegrityError("a manifest says otherwise of its feature file")
    return record


def _content(record: CommitRecord) -> tuple[object, ...]:
    return record.status, record.key, record.sha256, record.num_bytes, record.num_tiles, record.dim


def _read(storage: Storage, record: CommitRecord) -> FaultyObject | None:
    try:
        if sha256(storage.get(record.key)) == record.sha256:
            return None
    except NotFoundError:
        return _file_finding(Fault.MISSING, record, "the feature file is not there")
    return _file_finding(Fault.DAMAGED, record, "its sha256 is not the committed one")


def _file_finding(fault: Fault, record: CommitRecord, message: str) -> FaultyObject:
    return FaultyObject(fault, ObjectKind.FEATURES, record.key, record.feature_set, record.slide_id, message, record)
