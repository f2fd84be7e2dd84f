"""mhim import source=FOLDER format=trident cohort=my.csv store=./features: another tool's features into a store.

Inputs: the tool's files; the cohort table, whose slide ids the files' names must be, but for their extension. Outputs,
in the store: feature sets of encoders `<format>/<name>` with runtime `imported`, one for each tiling and encoder that
the files state; a commit per slide, manifests, a folder in `reports/`. Features become float16; nothing is computed.
Files that no slide is named after, and slides without a file, are listed. Cost: reads every file once; a file that is
unchanged since it was imported is not read again, unless its format has several files a slide.
Exit code: 0, 3 (some slides failed or lack a file), 4 (more than max_failed_fraction), 2, 5, 6.
"""

import os
import posixpath
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from cluster.child_calls import call_in_child
from cluster.storage import open_storage, read_bytes, require_put_if_absent
from flows.config.files import write_resolved
from flows.config.interop import ImportConfig
from flows.engine.result import FlowResult
from flows.runs.cohort import load_cohort
from flows.runs.embed_report import MAX_LINES, failed_table, new_report
from flows.runs.progress import SlideProgress
from mhim_core.cohort.columns import strip_extension
from mhim_core.cohort.slide_names import safe_id
from mhim_core.cohort.table import CohortRow
from mhim_core.errors import ConfigError, InputError, NotFoundError, OtherFormatError, SlideError, StorageError
from mhim_core.features import SourceHint
from mhim_core.fingerprint import canonical_json, fingerprint
from mhim_core.outcome import Outcome, reconcile
from mhim_core.printable import counted, first_of
from mhim_core.storage import Entry, Storage
from mhim_core.store.commit import AlreadyCommitted, commit
from mhim_core.store.feature_sets import FeatureSet, list_feature_sets, register
from mhim_core.store.foreign.feature_format import FeatureFormat, ForeignBag, ForeignFile, feature_format
from mhim_core.store.foreign.importing import (
    FileMatch,
    ImportedSlide,
    StatedByUser,
    is_imported_by,
    match_files,
    missing_keys,
    read_bag,
    read_slide,
)
from mhim_core.store.manifest import newest_version, read_manifest, write_manifest
from mhim_core.store.parallel import map_in_order
from mhim_core.store.record import CommitRecord, skipped_row
from mhim_core.store.restore import restore
from mhim_core.store.verify import list_sizes
from mhim_core.tables import write_csv
from mhim_core.types import ExitCode, FailureReason, SlideId, Status, StatusRow

_FILES_TO_LOOK_AT = 3
"""For keys that all files lack, before anything is written; those are read twice."""
_READ_TIMEOUT_S = 300.0
"""For one file, hundreds of times what a large one takes."""


class Imported(NamedTuple):
    """What became of one slide's file."""

    row: StatusRow
    feature_set: FeatureSet | None = None
    record: CommitRecord | None = None
    dtype: str = ""
    max_rounding: float = 0.0
    has_places: bool = True


def run(config: ImportConfig) -> FlowResult:
    """Raises CohortError, InputError (2), ConflictError (5), StorageError (6)."""
    config.check_format()
    _check_folder(config.source)
    cohort = load_cohort(config.data.cohort, with_files=False, options=config.table).cohort
    kind, source, storage = feature_format(config.format), open_storage(config.source), open_storage(config.store)
    files = find_files(source, kind, config.suffix)
    suffix = config.suffix or kind.suffix
    matched = match_files({key: _ids(key, suffix) for key in files}, [row.slide_id for row in cohort.rows])
    _tell_matches(matched, cohort.rows, source, suffix)
    job = _Job(config, kind, source, storage, files)
    rows = [row for row in cohort.rows if row.slide_id in matched.file_of]
    job.check_keys(rows, matched.file_of)
    require_put_if_absent(storage)
    results = list(_without_files(cohort.rows, matched))
    sizes = {row.slide_id: float(files[matched.file_of[row.slide_id]].num_bytes) for row in rows}
    with SlideProgress(sizes, config.execution.threads, max_failures=MAX_LINES) as progress:
        for result in map_in_order(
            lambda row: job.import_slide(row, matched.file_of[row.slide_id]), rows, config.execution.threads
        ):
            progress.update(result.row)
            results.append(result)
    outcome = reconcile([row.slide_id for row in cohort.rows], [result.row for result in results])
    manifests = _write_manifests(storage, results)
    folder = _write_report(storage, outcome, matched, manifests)
    write_resolved(storage, config, "import", folder)
    _tell(results, outcome)
    print(f"report: {storage.locate(folder)}")
    code = outcome.exit_code(config.max_failed_fraction)
    return FlowResult(
        exit_code=ExitCode.OK if config.partial_ok and code is ExitCode.PARTIAL else code,
        outputs={"store": storage.uri, "report": storage.locate(folder)},
        recomputed=any(result.row.status in (Status.OK, Status.EMPTY) for result in results),
    )


def find_files(source: Storage, kind: FeatureFormat, suffix: str) -> dict[str, Entry]:
    """The tool's files by key: those in the folder that is named as the tool names it, if there is one.

    Raises InputError where there is none.
    """
    suffix = suffix or kind.suffix
    entries = [entry for entry in source.list("") if entry.key.endswith(suffix)]
    own = [entry for entry in entries if any(fnmatchcase(folder, kind.folder) for folder in entry.key.split("/")[:-1])]
    chosen = {entry.key: entry for entry in own or entries}
    if not chosen:
        raise InputError(f"source={source.uri} holds no file that ends in {suffix}, as those of format={kind.name} do")
    return chosen


class _Job:
    """What is the same for all files."""

    def __init__(
        self, config: ImportConfig, kind: FeatureFormat, source: Storage, storage: Storage, files: dict[str, Entry]
    ) -> None:
        self._kind, self._source, self._storage, self._files = kind, source, storage, files
        self._stated = StatedByUser(
            encoder=config.encoder,
            coords_unit=config.coords_unit,
            tile_size_l0_px=config.tile_size_l0_px,
            default_mpp=config.default_mpp,
        )
        self._known = {} if kind.has_companions else _known_entries(storage, kind.name)
        self._registered: set[str] = set()

    def import_slide(self, row: CohortRow, key: str) -> Imported:
        """Read, check and commit one file; a failure is a row."""
        hint = self._hint(row, key)
        for feature_set, record in self._known.get(row.slide_id, ()):
            if record.reading.hint == hint:
                return Imported(skipped_row(record), feature_set, record)
        try:
            slide = read_slide(
                self._kind,
                self._file(row, key),
                row.slide_id,
                self._stated,
                table_mpp=row.mpp,
                hint=hint,
                read=self._reader,
            )
            if slide.feature_set.fingerprint not in self._registered:
                register(self._storage, slide.feature_set)
                self._registered.add(slide.feature_set.fingerprint)
            record = _committed(self._storage, slide).with_hint(hint)
        except SlideError as error:
            return Imported(
                StatusRow(row.slide_id, Status.FAILED, error.reason, "open", type(error).__name__, error.message)
            )
        status = StatusRow(
            row.slide_id,
            record.status,
            num_tiles=record.num_tiles,
            num_bytes=record.num_bytes,
            commit_key=record.commit_key,
        )
        return Imported(status, slide.feature_set, record, slide.dtype, slide.max_rounding, slide.has_places)

    def check_keys(self, rows: Sequence[CohortRow], file_of: Mapping[SlideId, str]) -> None:
        """Raises ConfigError with all keys that every file lacks which is looked at, and where every one of them is of
        another format: a file of its own kind among others fails alone.
        """
        has_mpp = any(row.mpp for row in rows)
        missing: dict[str, str] = {}
        others: list[OtherFormatError] = []
        for row in rows[:_FILES_TO_LOOK_AT]:
            hint = self._hint(row, file_of[row.slide_id])
            if any(record.reading.hint == hint for _, record in self._known.get(row.slide_id, ())):
                return
            try:
                file = self._file(row, file_of[row.slide_id])
                bag = read_bag(self._kind, self._reader or self._kind.read, file, row.slide_id)
            except OtherFormatError as error:
                others.append(error)
                continue
            except SlideError:
                continue
            lacking = missing_keys(bag, self._stated, has_mpp=has_mpp)
            missing = {key: what for key, what in lacking.items() if key in missing or not missing}
            if not missing:
                return
        if others and len(others) == len(rows[:_FILES_TO_LOOK_AT]):
            raise ConfigError(f"format={self._kind.name} is not that of the files here: {others[0].message}")
        if missing:
            keys = "; ".join(f"{key}= ({what})" for key, what in missing.items())
            raise ConfigError(f"files of format={self._kind.name} here do not state all that is needed; give {keys}")

    def _hint(self, row: CohortRow, key: str) -> SourceHint:
        """Under which the slide's record is found again; what is stated of a file decides what its features become."""
        entry, stated = self._files[key], fingerprint({"stated": self._stated, "mpp": row.mpp})
        return SourceHint(self._source.locate(key), entry.num_bytes, f"{entry.modified_s!r}-{stated[:16]}")

    def _file(self, row: CohortRow, key: str) -> ForeignFile:
        place = self._source.locate(key)
        return ForeignFile(place, _read(place, row.slide_id), _read_other)

    @property
    def _reader(self) -> Callable[[ForeignFile], ForeignBag] | None:
        return self._read_apart if self._kind.suffix == ".h5" else None

    def _read_apart(self, file: ForeignFile) -> ForeignBag:
        """In a child: a flipped bit in an HDF5 file can make its library loop for ever, or crash."""
        try:
            return call_in_child(_read_file, self._kind.name, file.place, file.data, timeout_s=_READ_TIMEOUT_S)
        except TimeoutError as error:
            raise SlideError(FailureReason.TIMEOUT, f"HDF5's library hangs at it: {error}") from error
        except ConnectionError as error:
            raise SlideError(FailureReason.DECODER_CRASH, f"HDF5's library crashes at it: {error}") from error


def _read_file(format_name: str, place: str, data: bytes) -> ForeignBag:
    return feature_format(format_name).read(ForeignFile(place, data, _nothing))


def _nothing(_: str) -> None:
    """A file of such a format stands alone."""


def _known_entries(storage: Storage, format_name: str) -> dict[SlideId, list[tuple[FeatureSet, CommitRecord]]]:
    """By slide what earlier imports from files of this format left, as far as its feature file is there."""
    known: dict[SlideId, list[tuple[FeatureSet, CommitRecord]]] = {}
    for feature_set in list_feature_sets(storage):
        if not is_imported_by(feature_set, format_name) or newest_version(storage, feature_set.fingerprint) is None:
            continue
        entries = read_manifest(storage, feature_set.fingerprint).entries
        sizes = list_sizes(storage, entries.values(), len(entries))
        for slide_id, record in entries.items():
            if _is_there(record, sizes):
                known.setdefault(slide_id, []).append((feature_set, record))
    return known


def _committed(storage: Storage, slide: ImportedSlide) -> CommitRecord:
    """The slide's commit, made or found; a feature file that was lost since is written again, to the same bytes."""
    outcome = commit(storage, slide.feature_set, slide.features)
    record = outcome.record
    if isinstance(outcome, AlreadyCommitted) and not _is_there(record, list_sizes(storage, [record], 1)):
        return restore(storage, slide.feature_set, slide.features, record)
    return record


def _is_there(record: CommitRecord, sizes: Mapping[str, int]) -> bool:
    return record.status is Status.EMPTY or sizes.get(record.key) == record.num_bytes


def _read(place: str, slide_id: SlideId) -> bytes:
    try:
        return read_bytes(place)
    except NotFoundError:
        raise SlideError(FailureReason.NOT_FOUND, f"slide {slide_id}: {place} is gone") from None
    except StorageError as error:
        raise SlideError(FailureReason.OPEN, f"slide {slide_id}: {error}") from error


def _read_other(place: str) -> bytes | None:
    try:
        return read_bytes(place)
    except NotFoundError:
        return None
    except StorageError as error:
        raise SlideError(FailureReason.OPEN, str(error)) from error


def _ids(key: str, suffix: str) -> list[str]:
    """What slide the file may be of: its name without the format's suffix, then without the slide's extension as well.

    A name that cannot be an id is written as the cohort's ids are that come from file names.
    """
    stem = posixpath.basename(key).removesuffix(suffix)
    return list(dict.fromkeys((stem, safe_id(stem), strip_extension(stem), safe_id(strip_extension(stem)))))


def _without_files(rows: Sequence[CohortRow], matched: FileMatch) -> Iterator[Imported]:
    for row in rows:
        if row.slide_id in matched.repeated:
            files = first_of(matched.repeated[row.slide_id], 10)
            message = f"slide {row.slide_id} has several files: {files}; give the folder of one encoder"
            yield Imported(StatusRow(row.slide_id, Status.FAILED, FailureReason.BAD_FEATURES, "open", message=message))
        elif row.slide_id not in matched.file_of:
            message = f"slide {row.slide_id} has no file"
            yield Imported(StatusRow(row.slide_id, Status.FAILED, FailureReason.NOT_FOUND, "open", message=message))


def _tell_matches(matched: FileMatch, rows: Sequence[CohortRow], source: Storage, suffix: str) -> None:
    """Raises InputError where no file is any slide's."""
    if not matched.file_of and not matched.repeated:
        first_file, first_id = matched.strangers[0], rows[0].slide_id if rows else "(none)"
        raise InputError(
            f"no file in {source.uri} is named after a slide of the cohort: the first file is {first_file}, the first "
            f"slide {first_id}; ids are compared as a whole, and suffix= says what follows them (now {suffix})"
        )
    if not matched.file_of:
        slide_id, files = next(iter(matched.repeated.items()))
        raise InputError(
            f"every slide with a file in {source.uri} has several, such as {slide_id}: {first_of(files, 5)}; give the "
            "folder of one encoder"
        )
    without = [
        row.slide_id for row in rows if row.slide_id not in matched.file_of and row.slide_id not in matched.repeated
    ]
    repeated = [f"{slide_id} ({first_of(files, 2)})" for slide_id, files in matched.repeated.items()]
    for noun, what, names in (
        ("file", "named after no slide of the cohort", matched.strangers),
        ("slide", "without a file", without),
        ("slide", "with several files, of which none is taken (give the folder of one encoder)", repeated),
    ):
        if names:
            print(f"{counted(len(names), noun)} {what}: {first_of(names, MAX_LINES)}")


def _write_manifests(storage: Storage, results: Sequence[Imported]) -> list[dict[str, object]]:
    """The next manifest of every set that has slides of this import."""
    sets = {result.feature_set.fingerprint: result.feature_set for result in results if result.feature_set is not None}
    written: list[dict[str, object]] = []
    for digest, feature_set in sorted(sets.items()):
        entries: dict[SlideId, CommitRecord | None] = {
            result.row.slide_id: result.record
            for result in results
            if result.record is not None and result.feature_set is not None and result.feature_set.fingerprint == digest
        }
        ref = write_manifest(storage, feature_set, entries)
        print(f"{feature_set.describe()}  {counted(len(entries), 'slide')}, manifest version {ref.version}")
        written.append(
            {"feature_set": digest, "encoder": feature_set.encoder_id, "manifest": ref, "slides": len(entries)}
        )
    return written


def _write_report(storage: Storage, outcome: Outcome, matched: FileMatch, manifests: list[dict[str, object]]) -> str:
    folder = new_report()
    summary = {
        "command": "import",
        "feature_sets": manifests,
        "num_input": len(outcome.rows),
        "counts": {status.value: outcome.count(status) for status in Status},
        "failures_by_reason": outcome.reasons,
        "num_strangers": len(matched.strangers),
    }
    storage.put(f"{folder}/summary.json", canonical_json(summary))
    storage.put(f"{folder}/failed.csv", failed_table(outcome))
    storage.put(f"{folder}/strangers.csv", write_csv([{"file": key} for key in matched.strangers], ("file",)))
    return folder


def _tell(results: Sequence[Imported], outcome: Outcome) -> None:
    print(outcome.summary())
    for dtype, number in sorted(Counter(result.dtype for result in results).items()):
        if dtype not in ("", "float16"):
            largest = max(result.max_rounding for result in results if result.dtype == dtype)
            rounding = f"no feature is off by more than {largest:.2g}" if largest else "all features exactly"
            print(f"{counted(number, 'file')} of {dtype}, stored as float16: {rounding}")
    if num_without := sum(not result.has_places for result in results):
        print(f"{counted(num_without, 'slide')} without coordinates, and so without heat maps")
    if num_open := sum(result.record is not None and not result.record.reading.mpp.x for result in results):
        print(
            f"{counted(num_open, 'slide')} of which neither the file nor the table's column mpp states the µm/px of "
            "level 0, which stays open"
        )


def _check_folder(source: str) -> None:
    """Raises ConfigError where a path on disk is no folder."""
    path = Path(os.path.expanduser(source))
    if "://" in source or path.is_dir():
        return
    if path.exists():
        raise ConfigError(f"source={source} is a file; give its folder")
    raise ConfigError(f"source={source}: there is no such folder")
