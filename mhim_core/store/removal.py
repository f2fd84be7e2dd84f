"""Taking slides out of a store: mark, commits, manifest entry, feature files, recorded failures, in this order.

Stopped between any two steps, it leaves a store in which a commit is named and missing (`verify` says that a removal
may have been interrupted) or files that nothing names; doing it again finishes it. A run that embeds meanwhile cannot
bring back what is gone: see `tombstones`, and `write_manifest_without` for why a version is always taken. Only if it
puts a feature file before the last look at the store and claims it after that is a commit left without its file.
"""

from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from mhim_core.errors import IntegrityError
from mhim_core.storage import Entry, Storage, leftovers, prune, sweep_leftovers
from mhim_core.store import layout
from mhim_core.store.manifest import read_manifest, rewrite_without, write_manifest_without
from mhim_core.store.parallel import map_all
from mhim_core.store.tombstones import mark_removed
from mhim_core.types import SlideId


class NamedBy(NamedTuple):
    """A version of a manifest that names slides."""

    feature_set: str
    """The fingerprint."""
    version: int
    is_newest: bool
    slide_ids: tuple[SlideId, ...]


class Holdings(NamedTuple):
    """Everything that a store holds of some slides."""

    commits: tuple[Entry, ...]
    files: tuple[Entry, ...]
    """Feature files, committed or not."""
    failures: tuple[Entry, ...]
    temporaries: tuple[str, ...]
    """Keys of what writers to the slides' folders have left, or are writing."""
    manifests: tuple[NamedBy, ...]
    unreadable: tuple[str, ...]
    """Sentences: older manifests that cannot be read, and may name the slides."""

    @property
    def older(self) -> tuple[NamedBy, ...]:
        """The manifests that are not the newest of their set."""
        return tuple(manifest for manifest in self.manifests if not manifest.is_newest)

    @property
    def is_in_use(self) -> bool:
        """Whether anything but older manifests and temporaries holds the slides."""
        return bool(self.commits or self.files or self.failures or len(self.manifests) > len(self.older))

    @property
    def slide_ids(self) -> frozenset[SlideId]:
        """Those of the slides of which anything is there."""
        keys = [*(entry.key for entry in (*self.commits, *self.files, *self.failures)), *self.temporaries]
        named = (slide_id for manifest in self.manifests for slide_id in manifest.slide_ids)
        return frozenset([*(SlideId(key.split("/")[2]) for key in keys), *named])


def find_holdings(storage: Storage, slide_ids: Collection[SlideId]) -> Holdings:
    """What the store holds of these slides, in all its feature sets. Costs a listing of it and all its manifests.

    Raises IntegrityError if the newest manifest of a set cannot be read.
    """
    wanted = {layout.check_slide_id(slide_id) for slide_id in slide_ids}

    def of_slides(prefix: str) -> tuple[Entry, ...]:
        return tuple(entry for entry in storage.list(prefix) if _slide_of(entry.key) in wanted)

    left = [key for key in leftovers(storage) if _slide_of(key) in wanted]
    in_use = [key for key in left if key.split("/")[0] in (layout.FEATURES, layout.COMMITS, layout.ATTEMPTS)]
    manifests, unreadable = _naming(storage, wanted)
    return Holdings(
        of_slides(layout.COMMITS),
        of_slides(layout.FEATURES),
        of_slides(layout.ATTEMPTS),
        tuple(in_use),
        manifests,
        unreadable,
    )


def remove_slides(storage: Storage, slide_ids: Collection[SlideId], *, older_manifests: bool) -> Holdings:
    """Take the slides out of all feature sets; what is left of them, which a run that embeds them meanwhile may write.

    `older_manifests`: also rewrite the versions that named them, so that runs pinned to one of these are refused.
    """
    left = find_holdings(storage, slide_ids)
    for _ in range(_MAX_PASSES):
        if not (left.is_in_use or (older_manifests and left.older)):
            break
        _remove(storage, left, older_manifests=older_manifests)
        left = find_holdings(storage, slide_ids)
    _clear_folders(storage, left, slide_ids)
    return left._replace(temporaries=())


def were_removed(storage: Storage, slide_ids: Collection[SlideId]) -> bool:
    """Whether any of the slides was ever removed."""
    marks = {entry.key.rpartition("/")[2] for entry in storage.list(layout.REMOVALS)}
    some_set = "0" * 64
    return any(layout.removal_key(some_set, slide_id).rpartition("/")[2] in marks for slide_id in slide_ids)


_MAX_PASSES = 5


def _remove(storage: Storage, held: Holdings, *, older_manifests: bool) -> None:
    slide_ids = held.slide_ids
    prefixes = {entry.key.split("/")[1] for entry in held.files}
    open_to_runs = {entry.key.split("/")[1] for entry in held.commits}
    open_to_runs |= {manifest.feature_set for manifest in held.manifests if manifest.is_newest}
    open_to_runs |= {fingerprint for fingerprint in _fingerprints(storage) if fingerprint[:16] in prefixes}
    others = {entry.key.split("/")[1] for entry in held.failures} | {manifest.feature_set for manifest in held.older}
    for fingerprint in sorted(filter(layout.is_fingerprint, open_to_runs | others)):
        mark_removed(storage, fingerprint, sorted(slide_ids))
    _delete(storage, held.commits)
    for fingerprint in sorted(filter(layout.is_fingerprint, open_to_runs)):
        write_manifest_without(storage, fingerprint, slide_ids)
    if older_manifests:
        for manifest in held.manifests:  # the newest is not any more
            rewrite_without(storage, manifest.feature_set, manifest.version, slide_ids)
    _delete(storage, held.files)
    _delete(storage, held.failures)


def _delete(storage: Storage, entries: Iterable[Entry]) -> None:
    delete: Callable[[str], None] = storage.delete
    map_all(delete, [entry.key for entry in entries])


def _clear_folders(storage: Storage, held: Holdings, slide_ids: Collection[SlideId]) -> None:
    """Killed writers' files, which may be whole feature files, and folders named like the slides."""
    fingerprints = _fingerprints(storage)
    folders = {f"{kind}/{name}" for kind in (layout.COMMITS, layout.ATTEMPTS) for name in fingerprints}
    folders |= {layout.features_prefix(name) for name in fingerprints}
    folders |= {key.rpartition("/")[0] for key in ("/".join(left.split("/")[:3]) for left in held.temporaries)}
    for slide_id in slide_ids:
        for folder in sorted(folders):
            sweep_leftovers(storage, f"{folder}/{slide_id}", min_age_s=0.0)
            prune(storage, f"{folder}/{slide_id}")


def _slide_of(key: str) -> SlideId:
    """The slide in whose folder this is: features/<fp>/<slide>/…, and likewise commits and attempts."""
    parts = key.split("/")
    return SlideId(parts[2]) if len(parts) > 3 else SlideId("")


def _fingerprints(storage: Storage) -> set[str]:
    names = {entry.key.rpartition("/")[2].removesuffix(".json") for entry in storage.list(layout.FEATURE_SETS)}
    names |= {entry.key.split("/")[1] for entry in storage.list(layout.MANIFESTS)}
    return {name for name in names if layout.is_fingerprint(name)}


def _naming(storage: Storage, slide_ids: Collection[SlideId]) -> tuple[tuple[NamedBy, ...], tuple[str, ...]]:
    manifests, unreadable = [], []
    versions: dict[str, list[int]] = {}
    for entry in storage.list(layout.MANIFESTS):
        fingerprint, version = entry.key.split("/")[1], layout.manifest_version(entry.key)
        if layout.is_fingerprint(fingerprint) and version is not None:
            versions.setdefault(fingerprint, []).append(version)
    for fingerprint, numbers in sorted(versions.items()):
        for version in sorted(numbers, reverse=True):
            is_newest = version == max(numbers)
            try:
                named = read_manifest(storage, fingerprint, version=version, only=slide_ids).entries
            except IntegrityError as error:
                if is_newest:
                    raise
                unreadable.append(str(error))
                continue
            if named:
                manifests.append(NamedBy(fingerprint, version, is_newest, tuple(named)))
    return tuple(manifests), tuple(unreadable)
