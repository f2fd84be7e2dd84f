"""mhim import source=FOLDER format=trident cohort=my.csv store=./features: another tool's features into a store.

Inputs: the tool's files; the cohort table, whose slide ids the files' names must be, but for their extension. Outputs,
in the store: feature sets of encoders `<format>/<name>` with runtime `imported`, one for each tiling and encoder that
the files state; a commit per slide, manifests, a folder in `reports/`. Features become float16; nothing is computed.
Files that no slide is named after, and slides without a file, are listed. Cost: reads every file once; a file that is
unchanged since it was imported is not read again, unless its format has several files a slide.
Exit code: 0, 3 (some slides failed or lack a file), 4 (more than max_failed_fraction), 2, 5, 6.
"""

import posixpath
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from cluster.child_calls import call_in_child
from cluster.storage import open_storage, read_bytes, require_put_if_absent
from flows.config.files import write_resolved
from flows.config.interop import ImportConfig
from flows.engine.result import FlowResult
from flows.runs.cohort import load_cohort
from flows.runs.embed_report import MAX_LINES, new_report
from mhim_core.cohort.columns import strip_extension
from mhim_core.cohort.slide_names import safe_id
from mhim_core.cohort.table import CohortRow
from mhim_core.errors import InputError, NotFoundError, SlideError, StorageError
from mhim_core.features import SourceHint
from mhim_core.fingerprint import canonical_json, fingerprint
from mhim_core.outcome import Outcome, reconcile
from mhim_core.printable import one_line
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
    read_slide,
)
from mhim_core.store.manifest import newest_version, read_manifest, write_manifest
from mhim_core.store.parallel import map_in_order
from mhim_core.store.record import CommitRecord, skipped_row
from mhim_core.store.restore import restore
from mhim_core.store.verify import list_sizes
from mhim_core.tables import write_csv
from mhim_core.types import ExitCode, FailureReason, SlideId, Status, StatusRow

_READ_TIMEOUT_S = 300.0
"""For one file, hundreds of times what a large one takes."""


class Imported(NamedTuple):
    """What became of one slide's file."""

    row: StatusRow
    feature_set: FeatureSet | None = None
    record: CommitRecord | None = None
    dtype: str = ""
    max_rounding: float = 0.0


def run(config: ImportConfig) -> FlowResult:
    """Raises CohortError, InputError (2), ConflictError (5), StorageError (6)."""
    config.check_format()
    cohort = load_cohort(config.data.cohort, with_files=False, options=config.table).cohort
    kind, source, storage = feature_format(config.format), open_storage(config.source), open_storage(config.store)
    files = find_files(source, kind, config.suffix)
    suffix = config.suffix or kind.suffix
    matched = match_files({key: _ids(key, suffix) for key in files}, [row.slide_id for row in cohort.rows])
    _tell_matches(matched, cohort.rows, source, suffix)
    require_put_if_absent(storage)
    job = _Job(config, kind, source, storage, files)
    rows = [row for row in cohort.rows if row.slide_id in matched.file_of]
    results = list(_without_files(cohort.rows, matched))
    for result in map_in_order(
        lambda row: job.import_slide(row, matched.file_of[row.slide_id]), rows, config.execution.threads
    ):
        if result.row.status is Status.FAILED:
            print(one_line(f"  {result.row.slide_id}: {result.row.reason}: {result.row.message}"), flush=True)
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
    own = [entry for entry in entries if kind.folder and kind.folder in entry.key.split("/")[:-1]]
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
        entry, place = self._files[key], self._source.locate(key)
        # what the user states decides what the features become
        hint = SourceHint(place, entry.num_bytes, f"{entry.modified_s!r}-{fingerprint(self._stated)[:16]}")
        for feature_set, record in self._known.get(row.slide_id, ()):
            if record.reading.hint == hint and record.reading.mpp.x == (row.mpp or self._stated.default_mpp or 0.0):
                return Imported(skipped_row(record), feature_set, record)
        try:
            data = _read(place, row.slide_id)
            slide = read_slide(
                self._kind,
                ForeignFile(place, data, _read_other),
                row.slide_id,
                self._stated,
                table_mpp=row.mpp,
                hint=hint,
                read=self._read_apart if self._kind.suffix == ".h5" else None,
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
        return Imported(status, slide.feature_set, record, slide.dtype, slide.max_rounding)

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
            files = ", ".join(matched.repeated[row.slide_id][:10])
            message = f"slide {row.slide_id} has several files: {files}; give the folder of one of them"
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
    without = [
        row.slide_id for row in rows if row.slide_id not in matched.file_of and row.slide_id not in matched.repeated
    ]
    for number, what, names in (
        (len(matched.strangers), "files are named after no slide of the cohort", matched.strangers),
        (len(without), "slides have no file", without),
        (len(matched.repeated), "slides have several files", list(matched.repeated)),
    ):
        if number:
            more = f", and {number - MAX_LINES} more, in the report" if number > MAX_LINES else ""
            print(one_line(f"{number} {what}: {', '.join(names[:MAX_LINES])}{more}"))


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
        print(f"{feature_set.describe()}  {len(entries)} slides, manifest version {ref.version}")
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
    columns = ("slide_id", "reason", "stage", "error_type", "message")
    rows = [{name: str(getattr(row, name) or "") for name in columns} for row in outcome.failed]
    storage.put(f"{folder}/failed.csv", write_csv(rows, columns))
    storage.put(f"{folder}/strangers.csv", write_csv([{"file": key} for key in matched.strangers], ("file",)))
    return folder


def _tell(results: Sequence[Imported], outcome: Outcome) -> None:
    print(outcome.summary())
    converted = Counter(result.dtype for result in results if result.dtype not in ("", "float16"))
    largest = max((result.max_rounding for result in results), default=0.0)
    for dtype, number in sorted(converted.items()):
        print(f"{number} files hold {dtype}, stored as float16: no feature is off by more than {largest:.2g}")
    if any(result.record is not None and not result.record.reading.mpp.x for result in results):
        print("the µm/px of some slides is stated neither by the files nor by the table's column mpp, and stays open")
