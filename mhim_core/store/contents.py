"""What a store holds, by feature set: told by the newest manifest of each, without a request a slide."""

from collections import defaultdict
from typing import NamedTuple

from mhim_core.errors import InputError, IntegrityError, NotFoundError
from mhim_core.storage import Storage
from mhim_core.store import layout
from mhim_core.store.feature_sets import FeatureSet
from mhim_core.store.manifest import ManifestTotals, manifest_totals


class SetContents(NamedTuple):
    """One feature set."""

    fingerprint: str
    feature_set: FeatureSet | None
    """None: what the fingerprint stands for is missing or damaged."""
    versions: tuple[int, ...]
    """Of its manifests, in order."""
    newest_s: float | None
    """When the newest was written, by the store's clock, seconds since the epoch; None before the first."""
    totals: ManifestTotals | None
    """By the newest manifest; None: there is none, or it is damaged."""
    num_committed: int
    """Slides with a commit, counted only where there is no manifest."""
    problem: str
    """Why something is not known; empty if all is."""


def list_contents(storage: Storage) -> list[SetContents]:
    """Every feature set, sorted by fingerprint: two listings and two small files each.

    Where a set has no manifest, as after a first run that was killed, its commits are listed and counted.
    """
    times: dict[str, dict[int, float]] = defaultdict(dict)
    for entry in storage.list(layout.MANIFESTS):
        fingerprint, version = entry.key.split("/")[1], layout.manifest_version(entry.key)
        if version is not None:
            times[fingerprint][version] = entry.modified_s
    names = {entry.key.rpartition("/")[2].removesuffix(".json") for entry in storage.list(layout.FEATURE_SETS)}
    return [
        _contents(storage, fingerprint, times.get(fingerprint, {}))
        for fingerprint in sorted({*names, *times})
        if layout.is_fingerprint(fingerprint)
    ]


def _contents(storage: Storage, fingerprint: str, times: dict[int, float]) -> SetContents:
    problems, feature_set, totals, num_committed = [], None, None, 0
    try:
        feature_set = FeatureSet.from_json(storage.get(layout.feature_set_key(fingerprint)))
    except (NotFoundError, IntegrityError, InputError) as error:
        problems.append(f"what it stands for cannot be read: {error}")
    if times:
        try:
            totals = manifest_totals(storage, fingerprint, max(times))
        except IntegrityError as error:
            problems.append(str(error))
    else:
        num_committed = len({layout.slide_of(entry.key) for entry in storage.list(layout.commits_prefix(fingerprint))})
    newest_s = times[max(times)] if times else None
    return SetContents(
        fingerprint, feature_set, tuple(sorted(times)), newest_s, totals, num_committed, "; ".join(problems)
    )
