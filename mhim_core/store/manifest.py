"""Manifests: a feature set's versioned list of commits, one row per slide. Training pins (version, sha256).

A version is written once, whole, and never changed, but by `rewrite_without` to forget a slide. Readers see exactly the
slides of one version and never list data.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mhim_core.errors import InputError, IntegrityError, NotFoundError
from mhim_core.features import MppUsed, SlideReading, SourceHint, SourceIdentity
from mhim_core.fingerprint import canonical_json, sha256, to_plain
from mhim_core.records import parse_json
from mhim_core.storage import Storage
from mhim_core.store import layout
from mhim_core.store.feature_sets import FeatureSet
from mhim_core.store.record import CommitRecord
from mhim_core.store.schema import METADATA_KEY, SCHEMA_VERSION
from mhim_core.store.tombstones import removed_slides
from mhim_core.tables import read_parquet
from mhim_core.types import SlideId, Status

_SCHEMA = pa.schema(
    [
        pa.field(name, kind, nullable=False)
        for name, kind in {
            "slide_id": pa.string(),
            "status": pa.string(),
            "key": pa.string(),
            "sha256": pa.string(),
            "num_bytes": pa.int64(),
            "num_tiles": pa.int64(),
            "dim": pa.int32(),
            "dtype": pa.string(),
            "source_num_bytes": pa.int64(),
            "source_digest": pa.string(),
            "hint_uri": pa.string(),
            "hint_num_bytes": pa.int64(),
            "hint_version": pa.string(),
            "source_sha256": pa.string(),
            "mpp_x": pa.float64(),
            "mpp_y": pa.float64(),
            "mpp_source": pa.string(),
            "effective_mpp_x": pa.float64(),
            "effective_mpp_y": pa.float64(),
            "upsample": pa.float64(),
            "num_bad_tiles": pa.int64(),
            "tiling": pa.string(),
            "encoder": pa.string(),
            "versions": pa.string(),
            "committed_by": pa.string(),
        }.items()
    ]
)

_SCHEMA_WITH_REGIONS = _SCHEMA.append(pa.field("regions", pa.string(), nullable=False))
"""Of a feature set whose tiles depend on annotations or masks: the digest of each slide's."""


class ManifestRef(NamedTuple):
    """A pin: the version and the bytes it must have."""

    version: int
    sha256: str
    key: str


class Manifest(NamedTuple):
    """One version, read and verified."""

    ref: ManifestRef
    feature_set: str
    """The feature set's fingerprint."""
    entries: dict[SlideId, CommitRecord]
    """Sorted by slide."""

    def bags(self) -> dict[SlideId, CommitRecord]:
        """The slides that have tiles."""
        return {slide_id: record for slide_id, record in self.entries.items() if record.status is Status.OK}


def newest_version(storage: Storage, feature_set: str) -> int | None:
    """The highest version of the set with this fingerprint; None before the first."""
    return max(manifest_versions(storage, feature_set), default=None)


def manifest_versions(storage: Storage, feature_set: str) -> list[int]:
    """Every version of the set with this fingerprint, in order."""
    versions = [layout.manifest_version(entry.key) for entry in storage.list(layout.manifests_prefix(feature_set))]
    return [version for version in versions if version is not None]


def write_manifest(
    storage: Storage, feature_set: FeatureSet, cohort_entries: Mapping[SlideId, CommitRecord | None]
) -> ManifestRef:
    """The next version: the previous one with the cohort's entries put in; None takes a slide out.

    Slides that are not named keep their entry. If that changes nothing, the present version is returned. Two runs that
    write at once both end up in the newest version: the second writer merges again. Raises IntegrityError for an entry
    of another feature set.
    """
    for slide_id, record in cohort_entries.items():
        if record is not None and (record.feature_set, record.slide_id) != (feature_set.fingerprint, slide_id):
            raise IntegrityError(f"slide {slide_id}: its entry is of {record.slide_id}, set {record.feature_set[:16]}")
    ref = _write_next(storage, feature_set.fingerprint, cohort_entries)
    assert ref is not None
    return ref


def write_manifest_without(storage: Storage, feature_set: str, slide_ids: Collection[SlideId]) -> ManifestRef | None:
    """The next version of the set with this fingerprint, without these slides; None where it has no manifest yet.

    Written even if the present one does not name them: a run that has read that one, and not seen yet that the slides
    are being removed (`tombstones`), finds its version taken and looks again.
    """
    return _write_next(storage, feature_set, dict.fromkeys(slide_ids), removing=True)


def rewrite_without(storage: Storage, feature_set: str, version: int, slide_ids: Collection[SlideId]) -> None:
    """Forget the slides in this version too: its sha256 is another then, and runs that are pinned to it are refused."""
    entries = read_manifest(storage, feature_set, version=version).entries
    left = {slide_id: record for slide_id, record in entries.items() if slide_id not in slide_ids}
    if left != entries:
        storage.put(layout.manifest_key(feature_set, version), _encode(feature_set, left))


def _write_next(
    storage: Storage,
    feature_set: str,
    changes: Mapping[SlideId, CommitRecord | None],
    *,
    removing: bool = False,
) -> ManifestRef | None:
    while True:
        version = newest_version(storage, feature_set)
        if version is None and removing:
            return None
        present = read_manifest(storage, feature_set, version=version) if version is not None else None
        merged: dict[SlideId, CommitRecord | None] = {**(present.entries if present else {}), **changes}
        # looked at after the version: whoever removes a slide says so first and takes a version afterwards
        gone = removed_slides(storage, feature_set, [record for record in merged.values() if record is not None])
        # what was seen of a slide, and how it was decoded, stays with its commit: the manifest is what training needs
        entries = {
            slide_id: replace(record, reading=replace(record.reading, view=None, backend=None, fallback=""))
            for slide_id, record in sorted(merged.items())
            if record is not None and slide_id not in gone
        }
        if present is not None and entries == present.entries and not removing:
            return present.ref
        data = _encode(feature_set, entries)
        key = layout.manifest_key(feature_set, (version or 0) + 1)
        if storage.put_if_absent(key, data):
            return ManifestRef((version or 0) + 1, sha256(data), key)


def read_manifest(
    storage: Storage,
    feature_set: str,
    version: int | None = None,
    sha256_pin: str | None = None,
    only: Collection[SlideId] | None = None,
) -> Manifest:
    """A version (None: the newest) of the set with this fingerprint, checked against its pin where one is given.

    `only`: just these slides' entries, which is ten times as fast; None: all.
    Raises InputError if there is no such version, IntegrityError if it is not what the pin or its name says.
    """
    wanted = newest_version(storage, feature_set) if version is None else version
    if wanted is None:
        raise InputError(f"{storage.uri} has no manifest of feature set {feature_set[:16]}; run `mhim embed` first")
    key = layout.manifest_key(feature_set, wanted)
    origin = storage.locate(key)
    try:
        data = storage.get(key)
    except NotFoundError:
        raise InputError(f"there is no manifest version {wanted}: {origin} does not exist") from None
    digest = sha256(data)
    if sha256_pin is not None and digest != sha256_pin:
        raise IntegrityError(f"{origin} has sha256 {digest}, not the pinned {sha256_pin}")
    return Manifest(ManifestRef(wanted, digest, key), feature_set, _decode(data, feature_set, origin, only))


class ManifestTotals(NamedTuple):
    """One version, counted."""

    num_slides: int
    num_empty: int
    """Of them without tissue."""
    num_tiles: int
    num_bytes: int
    """Of the feature files."""


def manifest_totals(storage: Storage, feature_set: str, version: int) -> ManifestTotals:
    """As `read_manifest`, without an object a slide."""
    table = _table(storage, feature_set, version)
    num_empty = pc.sum(pc.equal(table["status"], Status.EMPTY.value)).as_py() or 0
    num_tiles, num_bytes = (pc.sum(table[name]).as_py() or 0 for name in ("num_tiles", "num_bytes"))
    return ManifestTotals(table.num_rows, num_empty, num_tiles, num_bytes)


def named_files(storage: Storage, feature_set: str, version: int) -> set[str]:
    """The keys of the feature files that this version names. Raises as `read_manifest`."""
    return {key for key in _table(storage, feature_set, version)["key"].to_pylist() if key}


def _table(storage: Storage, feature_set: str, version: int) -> pa.Table:
    key = layout.manifest_key(feature_set, version)
    try:
        data = storage.get(key)
    except NotFoundError:
        raise InputError(f"there is no manifest version {version}: {storage.locate(key)} does not exist") from None
    return _checked_table(data, feature_set, storage.locate(key))


def _encode(feature_set: str, entries: Mapping[SlideId, CommitRecord]) -> bytes:
    metadata = {METADATA_KEY: canonical_json({"schema_version": SCHEMA_VERSION, "feature_set": feature_set})}
    rows = [_to_row(record) for record in entries.values()]
    schema = _SCHEMA
    if any("regions" in row for row in rows):
        schema, rows = _SCHEMA_WITH_REGIONS, [{"regions": "", **row} for row in rows]
    table = pa.Table.from_pylist(rows, schema=schema.with_metadata(metadata))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True, version="2.6", data_page_version="1.0")
    return sink.getvalue().to_pybytes()


def _decode(
    data: bytes, feature_set: str, origin: str, only: Collection[SlideId] | None = None
) -> dict[SlideId, CommitRecord]:
    table = _checked_table(data, feature_set, origin)
    if only is not None:
        table = table.filter(pc.is_in(table["slide_id"], pa.array(sorted(only), pa.string())))
    records = [_from_row(row, feature_set) for row in table.to_pylist()]
    return {record.slide_id: record for record in records}


def _checked_table(data: bytes, feature_set: str, origin: str) -> pa.Table:
    try:
        table = read_parquet(data)
        metadata = parse_json((table.schema.metadata or {})[METADATA_KEY])
        stated = (metadata["schema_version"], metadata["feature_set"])
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise IntegrityError(
            f"{origin} is not a manifest: {error!r}; the commits stand: move this file away, and `mhim embed` with its "
            "cohort's table writes the same one again"
        ) from error
    if stated != (SCHEMA_VERSION, feature_set) or not any(
        table.schema.equals(schema) for schema in (_SCHEMA, _SCHEMA_WITH_REGIONS)
    ):
        raise IntegrityError(
            f"{origin} is of schema version {stated[0]} and feature set {stated[1]}, or has other columns"
        )
    return table


def _to_row(record: CommitRecord) -> dict[str, object]:
    row: dict[str, object] = to_plain(record)
    del row["feature_set"]
    row.pop("backend", None)  # at its neutral value it is not there
    for name in ("source", "hint", "mpp"):
        del row[name]
        row.update({f"{name}_{key}": value for key, value in getattr(record.reading, name)._asdict().items()})
    del row["effective_mpp"]
    row["effective_mpp_x"], row["effective_mpp_y"] = record.reading.effective_mpp
    row["versions"] = canonical_json(record.versions).decode()
    return row


def _from_row(row: dict[str, object], feature_set: str) -> CommitRecord:
    values = dict(row)

    def take(prefix: str, *names: str) -> list[object]:
        return [values.pop(f"{prefix}_{name}") for name in names]

    reading = SlideReading(
        source=SourceIdentity(*take("source", "num_bytes", "digest")),  # type: ignore[arg-type]
        hint=SourceHint(*take("hint", "uri", "num_bytes", "version")),  # type: ignore[arg-type]
        source_sha256=values.pop("source_sha256"),  # type: ignore[arg-type]
        mpp=MppUsed(*take("mpp", "x", "y", "source")),  # type: ignore[arg-type]
        effective_mpp=tuple(take("effective_mpp", "x", "y")),  # type: ignore[arg-type]
        upsample=values.pop("upsample"),  # type: ignore[arg-type]
        backend=None,
        regions=str(values.pop("regions", "")),
    )
    nested = {
        "status": Status(str(values.pop("status"))),
        "versions": parse_json(str(values.pop("versions"))),
    }
    return CommitRecord(**values, **nested, reading=reading, feature_set=feature_set)  # type: ignore[arg-type]
