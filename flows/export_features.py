"""mhim export store=./features format=clam out=./clam [cohort=my.csv]: a store's features as another tool's files.
mhim export store=./features format=webdataset out=./tiles cohort=my.csv: the tiles themselves.

Inputs: the store's newest manifest of the feature set that the keys choose; the cohort table, which restricts it and
gives patients and labels; for tiles the slides, as they were embedded. Outputs, in out: the tool's folders and files,
and its tables where there is a cohort. Nothing is overwritten: what is there with the same bytes is left, anything else
is refused. Cost: reads every feature file once; for tiles it decodes every slide.
Exit code: 0, 3 (some slides failed), 4 (more than max_failed_fraction), 2, 5 (out holds something else), 6.
"""

import posixpath
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from cluster.storage import download, open_storage
from flows.config.interop import ExportConfig
from flows.engine.result import FlowResult
from flows.runs.cohort import load_cohort
from flows.runs.embed_report import MAX_LINES
from mhim_core.cohort.table import Cohort
from mhim_core.errors import ConflictError, InputError, IntegrityError, NotFoundError, SlideError
from mhim_core.fingerprint import neutral_values
from mhim_core.outcome import reconcile
from mhim_core.printable import one_line
from mhim_core.slides.spec import TileSpec, stored_spec
from mhim_core.slides.staging import staged
from mhim_core.storage import Storage
from mhim_core.store.feature_sets import FeatureSet, choose_feature_set
from mhim_core.store.foreign.feature_format import ExportedSlide, OwnSlide, feature_format
from mhim_core.store.manifest import read_manifest
from mhim_core.store.parallel import map_in_order
from mhim_core.store.record import CommitRecord
from mhim_core.store.schema import FeatureTable, decode_features
from mhim_core.types import FailureReason, SlideId, Status, StatusRow


class Written(NamedTuple):
    """How many files a slide took, and how many of them were there already."""

    num_files: int
    num_present: int


def run(config: ExportConfig) -> FlowResult:
    """Raises InputError (2), ConflictError (5), StorageError (6)."""
    config.check_format()
    storage, out, choice = open_storage(config.store), open_storage(config.out), config.features
    feature_set = choose_feature_set(
        storage,
        encoder_id=choice.encoder,
        tiling=choice.tiling,
        fingerprint=choice.feature_set,
        neutral=neutral_values(TileSpec),
    )
    cohort = _cohort(config)
    bags = read_manifest(storage, feature_set.fingerprint).bags()
    entries = (
        bags if cohort is None else {row.slide_id: bags[row.slide_id] for row in cohort.rows if row.slide_id in bags}
    )
    if not entries:
        raise InputError(f"{storage.uri} has no slide of the cohort with tiles in {feature_set.describe()}")
    if cohort is not None:
        _write_tables(config, cohort, entries, feature_set, out)
    absent = [] if cohort is None else [row.slide_id for row in cohort.rows if row.slide_id not in bags]
    rows = [
        StatusRow(
            slide_id, Status.FAILED, FailureReason.NOT_FOUND, "open", message="not in the store, or without tiles"
        )
        for slide_id in absent
    ]
    if absent:
        print(one_line(f"{len(absent)} slides have no features here: {', '.join(absent[:MAX_LINES])}"))
    write = (
        _tile_writer(config, cohort, feature_set, storage, out)
        if config.writes_tiles
        else _feature_writer(config, feature_set, storage, out)
    )

    def export(slide_id: SlideId) -> "_Exported":
        record = entries[slide_id]
        try:
            return _Exported(_ok(record), write(record))
        except SlideError as error:
            row = StatusRow(slide_id, Status.FAILED, error.reason, "open", type(error).__name__, error.message)
            return _Exported(row, Written(0, 0))

    num_new = 0
    for row, written in map_in_order(export, sorted(entries), config.execution.threads):
        if row.status is Status.FAILED:
            print(one_line(f"  {row.slide_id}: {row.reason}: {row.message}"), flush=True)
        num_new += written.num_files - written.num_present
        rows.append(row)
    outcome = reconcile([*sorted(entries), *absent], rows)
    print(f"{outcome.summary()}: {num_new} files written to {out.uri}")
    return FlowResult(
        exit_code=outcome.exit_code(config.max_failed_fraction), outputs={"out": out.uri}, recomputed=num_new > 0
    )


class _Exported(NamedTuple):
    row: StatusRow
    written: Written


Writer = Callable[[CommitRecord], Written]


def _feature_writer(config: ExportConfig, feature_set: FeatureSet, storage: Storage, out: Storage) -> Writer:
    """Writes a slide's features in the tool's format."""
    kind = feature_format(config.format)

    def write(record: CommitRecord) -> Written:
        table = _table(storage, record)
        files = kind.write(OwnSlide(record.slide_id, table, feature_set))
        return Written(len(files), sum(not _put(out, key, data) for key, data in files.items()))

    return write


def _tile_writer(
    config: ExportConfig, cohort: Cohort | None, feature_set: FeatureSet, storage: Storage, out: Storage
) -> Writer:
    """Writes the tiles of a slide. Raises InputError where they were not cut here."""
    spec = stored_spec(feature_set.tiling, "the tiles of these features")
    uris = {} if cohort is None else {row.slide_id: row.uri for row in cohort.rows}

    def write(record: CommitRecord) -> Written:
        from mhim_core.embed.tile_images import tile_images, tile_shards

        coords = _table(storage, record).coords_l0_px
        reading, slide_id = record.reading, record.slide_id
        num_files = num_present = 0
        try:
            with staged(uris[slide_id], download, config.staging_dir or None) as path:
                images = tile_images(
                    path,
                    slide_id,
                    coords,
                    spec=spec,
                    mpp=reading.mpp,
                    upsample=reading.upsample,
                    effective_mpp=reading.effective_mpp,
                    source=reading.source,
                    num_bad_tiles=record.num_bad_tiles,
                )
                if config.format == "webdataset":
                    files = tile_shards(images, slide_id, config.tiles_per_shard)
                else:
                    files = ((f"{slide_id}/{image.name}.png", image.png) for image in images)
                for key, data in files:
                    num_files += 1
                    num_present += not _put(out, key, data)
        except NotFoundError as error:
            raise SlideError(FailureReason.NOT_FOUND, f"slide {slide_id}: {error}") from error
        return Written(num_files, num_present)

    return write


def _table(storage: Storage, record: CommitRecord) -> FeatureTable:
    """Raises SlideError where the feature file is gone or damaged."""
    try:
        return decode_features(
            storage.get(record.key),
            slide_id=record.slide_id,
            dim=record.dim,
            expect_sha256=record.sha256,
            num_tiles=record.num_tiles,
        )
    except (NotFoundError, IntegrityError) as error:
        raise SlideError(FailureReason.READ, f"{error}; `mhim store repair deep=true` makes it again") from error


def _put(out: Storage, key: str, data: bytes) -> bool:
    """False: it is there already with these bytes. Raises ConflictError for others."""
    if out.put_if_absent(key, data):
        return True
    if out.get(key) != data:
        raise ConflictError(f"{out.locate(key)} is there already, with another content; choose another out=")
    return False


def _ok(record: CommitRecord) -> StatusRow:
    return StatusRow(record.slide_id, Status.OK, num_tiles=record.num_tiles)


def _cohort(config: ExportConfig) -> Cohort | None:
    if not config.cohort:
        return None
    return load_cohort(config.cohort, with_files=False, labels_uri=config.labels, options=config.table).cohort


def _write_tables(
    config: ExportConfig, cohort: Cohort, entries: Mapping[SlideId, CommitRecord], feature_set: FeatureSet, out: Storage
) -> None:
    """The tool's own tables of the exported slides, before any file: they are refused first if out is another's."""
    if config.writes_tiles:
        return
    rows = [
        ExportedSlide(
            row.slide_id,
            row.patient_id,
            row.label,
            row.time,
            row.event,
            posixpath.basename(row.uri),
            entries[row.slide_id].reading.mpp.x,
        )
        for row in sorted(cohort.rows, key=lambda row: row.slide_id)
        if row.slide_id in entries
    ]
    for key, data in feature_format(config.format).tables(rows, feature_set).items():
        _put(out, key, data)
        print(f"table: {out.locate(key)}")
    if config.format == "mhim" and (pairs := _contained(row.slide_id for row in rows)):
        print(
            one_line(
                f"warning: MHIM-MIL takes every file whose name contains a listed id, so that it would mix "
                f"{', '.join(pairs[:MAX_LINES])}"
            )
        )


def _contained(slide_ids: Iterable[SlideId]) -> list[str]:
    """The ids that another id contains, as `s1 in s10`."""
    ids = sorted(slide_ids)
    text = "\n".join(ids)
    return [slide_id for slide_id in ids if text.count(slide_id) > 1]
