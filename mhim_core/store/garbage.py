"""What nobody needs in a store: files of attempts that were never committed, probes, failures of slides that came good.

Nothing is garbage that a commit or any version of a manifest names, or that is younger than a day by the store's own
clock, as a write that goes on may be. Files are listed before the records that could name them, since they are written
in that order.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

from mhim_core.errors import InputError, IntegrityError
from mhim_core.storage import Entry, Storage, clock_s, dead_leftovers, sweep_leftovers
from mhim_core.store import layout
from mhim_core.store.manifest import named_files
from mhim_core.store.parallel import map_all, read_all
from mhim_core.store.record import CommitRecord
from mhim_core.types import SlideId

MIN_AGE_S = 86_400.0
"""Younger objects may belong to a write that goes on."""


class GarbageKind(StrEnum):
    """The kinds of objects that nobody needs."""

    FEATURES = "features"
    """A feature file that no commit and no manifest names."""
    TEMPORARY = "temporary"
    """Of a killed writer in a folder."""
    FAILURE = "failure"
    """A recorded failure of a slide that was committed later."""
    PROBE = "probe"
    """Of a killed command that tried the store out."""


class Garbage(NamedTuple):
    """One object."""

    kind: GarbageKind
    key: str
    num_bytes: int
    modified_s: float


class GarbageFound(NamedTuple):
    """What can go, sorted by kind and key, and what could not be judged."""

    objects: tuple[Garbage, ...]
    unclear: tuple[str, ...]
    """Sentences: records that could not be read, so that what they may name was kept."""

    def of(self, kind: GarbageKind) -> tuple[Garbage, ...]:
        return tuple(item for item in self.objects if item.kind is kind)


def find_garbage(storage: Storage) -> GarbageFound:
    """Everything that can go. Costs a listing of the store, and of the manifests of a set as many as it takes to clear
    its files, the newest first; a request a commit only for slides with a file that no manifest names.

    Raises StorageError, also where the store takes no writes: the age of what is in it is told by its own clock.
    """
    newest_s = clock_s(storage) - MIN_AGE_S

    def old(prefix: str) -> list[Entry]:
        return [entry for entry in storage.list(prefix) if entry.modified_s <= newest_s]

    files = {entry.key: entry for entry in old(layout.FEATURES) if layout.parse_features_key(entry.key)}
    failures, probes = old(layout.ATTEMPTS), old(layout.PROBES)
    commits: dict[tuple[str, SlideId], list[Entry]] = defaultdict(list)
    for entry in storage.list(layout.COMMITS):
        place = layout.parse_commit_key(entry.key)
        if place is not None:
            commits[entry.key.split("/")[1], place.slide_id].append(entry)
    unclear = [*_drop_named_by_manifests(storage, files), *_drop_committed(storage, files, commits)]
    found = [_garbage(GarbageKind.FEATURES, entry) for entry in files.values()]
    found += [
        _garbage(GarbageKind.TEMPORARY, entry) for entry in dead_leftovers(storage, newest_s + MIN_AGE_S, MIN_AGE_S)
    ]
    found += [_garbage(GarbageKind.FAILURE, entry) for entry in failures if _is_settled(entry, commits)]
    found += [_garbage(GarbageKind.PROBE, entry) for entry in probes]
    order = list(GarbageKind)
    return GarbageFound(tuple(sorted(found, key=lambda item: (order.index(item.kind), item.key))), tuple(unclear))


def remove_garbage(storage: Storage, objects: Sequence[Garbage]) -> int:
    """Delete these; how many went. A feature file only after another look at it and at its slide's commits.

    Between that look and the deletion lies one request: a run that writes the very same bytes again just then loses
    them, which `verify` names and `repair` mends.
    """

    def remove(item: Garbage) -> bool:
        if item.kind is GarbageKind.FEATURES and not _is_still_garbage(storage, item):
            return False
        storage.delete(item.key)
        return True

    removed = map_all(remove, [item for item in objects if item.kind is not GarbageKind.TEMPORARY])
    is_any_temporary = any(item.kind is GarbageKind.TEMPORARY for item in objects)
    return sum(removed) + (sweep_leftovers(storage, min_age_s=MIN_AGE_S) if is_any_temporary else 0)


def _garbage(kind: GarbageKind, entry: Entry) -> Garbage:
    return Garbage(kind, *entry)


def _drop_named_by_manifests(storage: Storage, files: dict[str, Entry]) -> Iterable[str]:
    """Take out what any version names; of a set with a version that cannot be read, everything."""
    versions: dict[str, list[int]] = defaultdict(list)
    for entry in storage.list(layout.MANIFESTS):
        fingerprint, version = entry.key.split("/")[1], layout.manifest_version(entry.key)
        if layout.is_fingerprint(fingerprint) and version is not None:
            versions[fingerprint].append(version)
    for fingerprint, numbers in versions.items():
        prefix = f"{layout.features_prefix(fingerprint)}/"
        for version in sorted(numbers, reverse=True):
            if not any(key.startswith(prefix) for key in files):
                break
            try:
                named: Collection[str] = named_files(storage, fingerprint, version)
            except IntegrityError as error:
                named = [key for key in files if key.startswith(prefix)]
                yield f"{len(named)} files of feature set {fingerprint[:16]} that other versions do not name: {error}"
            for key in named:
                files.pop(key, None)


def _drop_committed(
    storage: Storage, files: dict[str, Entry], commits: dict[tuple[str, SlideId], list[Entry]]
) -> Iterable[str]:
    """Take out what a commit of its slide names, and what a commit that cannot be read may name."""
    slides = {layout.parse_features_key(key) for key in files}
    keys = [
        entry.key
        for (fingerprint, slide_id), entries in commits.items()
        if (fingerprint[:16], slide_id) in slides
        for entry in entries
    ]
    for key, data in read_all(storage, keys).items():
        try:
            files.pop(CommitRecord.from_json(data, storage.locate(key)).key, None)
        except (IntegrityError, InputError) as error:
            prefix = f"{layout.slide_features_prefix(key.split('/')[1], layout.slide_of(key))}/"
            kept = [name for name in files if name.startswith(prefix)]
            for name in kept:
                del files[name]
            if kept:
                yield f"{len(kept)} files of slide {layout.slide_of(key)}: {error}"


def _is_settled(failure: Entry, commits: dict[tuple[str, SlideId], list[Entry]]) -> bool:
    parts = failure.key.split("/")
    if len(parts) != 5 or not failure.key.endswith(".json"):
        return False
    later = commits.get((parts[1], SlideId(parts[2])), [])
    return any(entry.modified_s > failure.modified_s for entry in later)


def _is_still_garbage(storage: Storage, item: Garbage) -> bool:
    """Whether nobody has written the file again, or committed it, since it was found."""
    place = layout.parse_features_key(item.key)
    assert place is not None
    entry = Entry(item.key, item.num_bytes, item.modified_s)
    if entry not in storage.list(layout.slide_features_prefix(*place)):
        return False
    for feature_set in storage.list(layout.FEATURE_SETS):
        fingerprint = feature_set.key.rpartition("/")[2].removesuffix(".json")
        if not layout.is_fingerprint(fingerprint) or fingerprint[:16] != place.feature_set:
            continue
        keys = [commit.key for commit in storage.list(layout.slide_commits_prefix(fingerprint, place.slide_id))]
        for key, data in read_all(storage, keys).items():
            try:
                if CommitRecord.from_json(data, storage.locate(key)).key == item.key:
                    return False
            except (IntegrityError, InputError):  # it may name the file
                return False
    return True
