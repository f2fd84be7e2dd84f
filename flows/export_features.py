"""mhim export store=./features format=clam out=./clam [cohort=my.csv]: a store's features as another tool's files.
mhim export store=./features format=webdataset out=./tiles cohort=my.csv: the tiles themselves.

Inputs: the store's newest manifest of the feature set that the keys choose; the cohort table, which restricts it and
gives patients and labels; for tiles the slides, as they were embedded. Outputs, in out: the tool's folders and files,
its tables of the slides that were exported where there is a cohort, a folder in `reports/`. What is there with the same
bytes is left, a table that lacks slides is completed, anything else is refused. Cost: reads every feature file once;
for tiles it decodes every slide.
Exit code: 0, 3 (some slides failed), 4 (more than max_failed_fraction), 2, 5 (out holds something else), 6.
"""

import os
import posixpath
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cluster.storage import download, open_storage
from flows.config.files import write_resolved
from flows.config.interop import ExportConfig
from flows.engine.result import FlowResult
from flows.runs.cohort import load_cohort
from flows.runs.embed_report import MAX_LINES, failed_table, new_report
from flows.runs.progress import SlideProgress
from mhim_core.cohort.table import Cohort
from mhim_core.errors import ConfigError, ConflictError, InputError, IntegrityError, NotFoundError, SlideError
from mhim_core.fingerprint import canonical_json, neutral_values
from mhim_core.outcome import Outcome, reconcile
from mhim_core.printable import counted, first_of
from mhim_core.slides.spec import TileSpec, stored_spec
from mhim_core.slides.staging import staged
from mhim_core.storage import Storage
from mhim_core.store import layout
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
    storage, out, choice = open_storage(config.store), _open_out(config.out), config.features
    feature_set = choose_feature_set(
        storage,
        encoder_id=choice.encoder,
        tiling=choice.tiling,
        fingerprint=choice.feature_set,
        neutral=neutral_values(TileSpec),
    )
    cohort = _cohort(config)
    entries = read_manifest(storage, feature_set.fingerprint).entries
    slide_ids = sorted(entries) if cohort is None else [row.slide_id for row in cohort.rows]
    bags = {key: entries[key] for key in sorted(slide_ids) if key in entries and entries[key].status is Status.OK}
    if not bags:
        raise InputError(f"{storage.uri} has no slide of the cohort with tiles in {feature_set.describe()}")
    tables = _Tables(config, cohort, bags, feature_set, out)
    rows = list(_without_bags(slide_ids, entries))
    write = (
        _tile_writer(config, cohort, feature_set, storage, out)
        if config.writes_tiles
        else _feature_writer(config, feature_set, storage, out)
    )

    def export(slide_id: SlideId) -> _Exported:
        record = bags[slide_id]
        try:
            return _Exported(_ok(record), write(record))
        except SlideError as error:
            row = StatusRow(slide_id, Status.FAILED, error.reason, "open", type(error).__name__, error.message)
            return _Exported(row, Written(0, 0))

    num_new = 0
    sizes = {slide_id: float(record.num_bytes) for slide_id, record in bags.items()}
    with SlideProgress(sizes, config.execution.threads, max_failures=MAX_LINES) as progress:
        for row, written in map_in_order(export, bags, config.execution.threads):
            progress.update(row)
            num_new += written.num_files - written.num_present
            rows.append(row)
    tables.write({row.slide_id for row in rows if row.status is Status.OK})
    outcome = reconcile(slide_ids, rows)
    print(f"{outcome.summary()}: {counted(num_new, 'file')} written to {out.uri}")
    folder = _write_report(config, feature_set, outcome, out)
    print(f"report: {out.locate(folder)}")
    return FlowResult(
        exit_code=outcome.exit_code(config.max_failed_fraction),
        outputs={"out": out.uri, "report": out.locate(folder)},
        recomputed=num_new > 0,
    )


class _Exported(NamedTuple):
    row: StatusRow
    written: Written


def _open_out(uri: str) -> Storage:
    """Raises ConfigError for a file, InputError for a store, whose folders are not to be mixed with a tool's."""
    if "://" not in uri and Path(os.path.expanduser(uri)).is_file():
        raise ConfigError(f"out={uri} is a file; give a folder")
    out = open_storage(uri)
    if next(out.list(layout.FEATURE_SETS), None) is not None:
        raise InputError(f"out={uri} is a feature store; give a folder of its own")
    return out


def _without_bags(slide_ids: Iterable[SlideId], entries: Mapping[SlideId, CommitRecord]) -> Iterator[StatusRow]:
    """Rows of the slides that have no tiles, which are named: those without tissue are no failures."""
    empty, absent = [], []
    for slide_id in slide_ids:
        if slide_id not in entries:
            absent.append(slide_id)
            yield StatusRow(slide_id, Status.FAILED, FailureReason.NOT_FOUND, "open", message="not in the store")
        elif entries[slide_id].status is not Status.OK:
            empty.append(slide_id)
            yield StatusRow(slide_id, Status.EMPTY)
    for names, what in ((empty, "without tiles, for which no file is written"), (absent, "not in the store")):
        if names:
            print(f"{counted(len(names), 'slide')} {what}: {first_of(names, MAX_LINES)}")


def _write_report(config: ExportConfig, feature_set: FeatureSet, outcome: Outcome, out: Storage) -> str:
    folder = new_report()
    summary = {
        "command": "export",
        "feature_set": feature_set.fingerprint,
        "encoder": feature_set.encoder_id,
        "num_input": len(outcome.rows),
        "counts": {status.value: outcome.count(status) for status in Status},
        "failures_by_reason": outcome.reasons,
        "empty": [row.slide_id for row in outcome.empty],
    }
    out.put(f"{folder}/summary.json", canonical_json(summary))
    out.put(f"{folder}/failed.csv", failed_table(outcome))
    write_resolved(out, config, "export", folder)
    return folder


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

        table = _table(storage, record)
        width, height = table.metadata["tile_size_l0_px"]
        reading, slide_id = record.reading, record.slide_id
        num_files = num_present = 0
        try:
            with staged(uris[slide_id], download, config.staging_dir or None) as path:
                images = tile_images(
                    path,
                    slide_id,
                    table.coords_l0_px,
                    spec=spec,
                    mpp=reading.mpp,
                    upsample=reading.upsample,
                    effective_mpp=reading.effective_mpp,
                    source=reading.source,
                    tile_size_l0_px=(int(width), int(height)),
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


class _Tables:
    """The tool's own tables: looked at before any file is written, and written when it is known which slides are."""

    def __init__(
        self,
        config: ExportConfig,
        cohort: Cohort | None,
        bags: Mapping[SlideId, CommitRecord],
        feature_set: FeatureSet,
        out: Storage,
    ) -> None:
        """Raises ConflictError where a table is there that has other lines than these slides'."""
        self._config, self._feature_set, self._out = config, feature_set, out
        has_tables = cohort is not None and not config.writes_tiles
        self._rows = _exported_slides(cohort, bags) if cohort is not None and has_tables else []
        self._whole = self._of(self._rows)
        self._present = {key: data for key in self._whole if (data := _get(out, key)) is not None}
        for key, data in self._present.items():
            if not set(data.split(b"\n")) <= set(self._whole[key].split(b"\n")):
                raise ConflictError(f"{out.locate(key)} is there already, with other slides; choose another out=")

    def write(self, exported: Collection[SlideId]) -> None:
        """The tables of these slides, and of those that an earlier export has written.

        Raises ConflictError where another process has written one meanwhile.
        """
        rows = [row for row in self._rows if row.slide_id in exported]
        tables = self._of(rows)
        for key, whole in self._whole.items():
            lines = {*tables.get(key, b"").split(b"\n"), *self._present.get(key, b"").split(b"\n")}
            data = b"\n".join(line for line in whole.split(b"\n") if line in lines)
            if key in self._present:
                if data != self._present[key]:
                    self._out.put(key, data)
            elif key in tables:
                _put(self._out, key, data)
            else:
                continue
            print(f"table: {self._out.locate(key)}")
        if self._config.format == "mhim" and (pairs := _contained([row.slide_id for row in rows])):
            print(
                "warning: MHIM-MIL takes every file whose name contains a listed id, so that it would mix "
                f"{first_of(pairs, MAX_LINES)}"
            )

    def _of(self, rows: Sequence[ExportedSlide]) -> dict[str, bytes]:
        return feature_format(self._config.format).tables(rows, self._feature_set) if rows else {}


def _exported_slides(cohort: Cohort, bags: Mapping[SlideId, CommitRecord]) -> list[ExportedSlide]:
    return [
        ExportedSlide(
            row.slide_id,
            row.patient_id,
            row.label,
            row.time,
            row.event,
            posixpath.basename(row.uri),
            bags[row.slide_id].reading.mpp.x,
        )
        for row in sorted(cohort.rows, key=lambda row: row.slide_id)
        if row.slide_id in bags
    ]


def _get(out: Storage, key: str) -> bytes | None:
    try:
        return out.get(key)
    except NotFoundError:
        return None


def _contained(slide_ids: Sequence[SlideId]) -> list[str]:
    """The ids that another id contains, with the first that does: `s1 with s10`."""
    ids = sorted(slide_ids)
    text = "\n".join(ids)
    return [
        f"{slide_id} with {next(other for other in ids if slide_id in other and other != slide_id)}"
        for slide_id in ids
        if text.count(slide_id) > 1 and any(slide_id in other and other != slide_id for other in ids)
    ]
