"""mhim store verify store=./features [deep=true]; mhim store repair store=./features cohort=my.csv.

`verify` holds a store's commits and manifests against its files. `repair` embeds the slides whose feature file or
commit is missing or damaged again, with the encoder and tiling of their own feature set, and writes what comes out only
if it has the committed sha256; other slides are left, with the reason. Nothing else in the store is changed or removed.
Inputs: the store; for `repair` also the cohort table and its slides. Outputs: a folder in the store's `reports/` with
summary.json and findings.csv, for `repair` with repaired.csv. Cost: a listing of the store, with deep=true a pass over
all its bytes; `repair` also the embedding of what is lost, and nothing but the listing where nothing is.
Exit code: 0 (orphans alone are no loss), 4 (something is missing or damaged, or could not be repaired), 2, 5, 6.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cluster.session import check_address
from cluster.storage import open_storage, require_put_if_absent
from flows.config.files import write_resolved
from flows.config.store import StoreRepairConfig, StoreVerifyConfig
from flows.embed import embed_tasks
from flows.engine.result import FlowResult
from flows.runs.cohort import CohortInput, load_cohort, slide_identity
from flows.runs.devices import with_gpus_for
from flows.runs.embed_report import MAX_LINES, new_report
from flows.runs.regions import with_regions
from flows.runs.selection import settled_selection
from mhim_core.embed.card import RUNTIME_CUDA, EncoderCard
from mhim_core.errors import EncoderError, InputError, IntegrityError, StorageError
from mhim_core.fingerprint import canonical_json
from mhim_core.slides.spec import SlidePolicy, TileSpec, TissueMethod, stored_spec, tiling_identity
from mhim_core.storage import Storage, sweep_leftovers
from mhim_core.store.feature_sets import FeatureSet
from mhim_core.store.layout import feature_set_key
from mhim_core.store.parallel import map_all
from mhim_core.store.record import CommitRecord
from mhim_core.store.verify import Audit, Fault, FaultyObject, ObjectKind, audit
from mhim_core.tables import write_csv
from mhim_core.types import ExitCode, SlideId, SlideTask, Status, StatusRow

_ADMIT_ALL = SlidePolicy(max_upsample=1e9, max_mpp_factor=0.0)
"""What is committed was let in when it was made."""


def verify(config: StoreVerifyConfig) -> FlowResult:
    """Raises InputError (2) where there is no store, StorageError (6)."""
    storage = open_storage(config.store)
    result = _audited(storage, deep=config.deep)
    _tell(result)
    report = _write_report(storage, result, config, "store verify", [])
    if result.lost:
        print(f"  mhim store repair store={config.store} cohort=<the table with these slides>")
    return FlowResult(exit_code=_exit_code(len(result.lost)), outputs={"report": report}, recomputed=False)


def repair(config: StoreRepairConfig) -> FlowResult:
    """Raises CohortError, EncoderError (2), ConflictError (5), StorageError (6)."""
    check_address(config.ray.ray_address)
    config.embedding.check_room(config.ray)
    cohort_input = load_cohort(config.data.cohort, options=config.table)
    storage = open_storage(config.store)
    result = _audited(storage, deep=config.deep)
    _tell(result)
    if result.lost:
        require_put_if_absent(storage)
    repairs = list(_repairs(result.lost, config, storage, cohort_input))
    for row in [row for row in repairs if row.left][:MAX_LINES]:
        print(f"  left: {row.slide_id or row.key}: {row.left}")
    num_left = sum(bool(row.left) for row in repairs)
    if num_swept := sweep_leftovers(storage):
        print(f"{num_swept} temporary files of killed writers removed")
    print(f"{len(repairs) - num_left} of {len(repairs)} repaired")
    report = _write_report(storage, result, config, "store repair", repairs)
    outputs = {"store": storage.uri, "report": report}
    return FlowResult(exit_code=_exit_code(num_left), outputs=outputs, recomputed=len(repairs) > num_left)


class Repair(NamedTuple):
    """What became of one loss."""

    slide_id: SlideId
    part: ObjectKind
    key: str
    left: str
    """Why it was not repaired; empty: it is as committed again."""


def _audited(storage: Storage, *, deep: bool) -> Audit:
    result = audit(storage, deep=deep)
    if not (result.num_commits or result.findings):
        raise InputError(f"{storage.uri} holds no features; store= is the folder or prefix that mhim embed wrote")
    return result


def _exit_code(num_lost: int) -> ExitCode:
    return ExitCode.TOO_MANY_FAILED if num_lost else ExitCode.OK


def _tell(result: Audit) -> None:
    counts = ", ".join(f"{result.count(fault)} {fault}" for fault in Fault)
    print(f"{result.num_commits} commits, {result.num_files} feature files, {result.num_bytes:,} bytes: {counts}")
    for finding in result.findings[:MAX_LINES]:
        subject = f"{finding.slide_id}: " if finding.slide_id else ""
        detail = f" ({finding.message})" if finding.message else ""
        print(f"  {finding.fault}: {subject}{finding.part} {finding.key}{detail}")
    if len(result.findings) > MAX_LINES:
        print(f"  and {len(result.findings) - MAX_LINES} more, in the report")


def _write_report(
    storage: Storage,
    result: Audit,
    config: StoreVerifyConfig | StoreRepairConfig,
    command: str,
    repairs: Sequence[Repair],
) -> str:
    """The place of the report; empty, with a warning, where the store takes no writes: what was found counts more."""
    folder = new_report()
    summary = {
        "command": command,
        "deep": config.deep,
        "num_commits": result.num_commits,
        "num_files": result.num_files,
        "num_bytes": result.num_bytes,
        "counts": {fault.value: result.count(fault) for fault in Fault},
        "num_repaired": sum(not row.left for row in repairs),
    }
    columns = ("slide_id", "fault", "part", "message", "key", "feature_set")
    try:
        storage.put(f"{folder}/summary.json", canonical_json(summary))
        storage.put(f"{folder}/findings.csv", write_csv(result.findings, columns))
        if isinstance(config, StoreRepairConfig):
            storage.put(f"{folder}/repaired.csv", write_csv(repairs, Repair._fields))
        write_resolved(storage, config, command, folder)
    except StorageError as error:
        print(f"warning: no report was written: {error}")
        return ""
    print(f"report: {storage.locate(folder)}")
    return storage.locate(folder)


def _repairs(
    lost: Sequence[FaultyObject], config: StoreRepairConfig, storage: Storage, cohort_input: CohortInput
) -> Iterable[Repair]:
    """What became of every loss, feature set by feature set."""
    by_record: dict[str, CommitRecord] = {}
    left: dict[str, str] = {}
    for finding in lost:
        if finding.record is None:
            left[finding.key] = _why_not(finding)
        else:
            by_record[finding.record.commit_key] = finding.record
    for fingerprint in sorted({record.feature_set for record in by_record.values()}):
        own = [record for record in by_record.values() if record.feature_set == fingerprint]
        left |= _restore_set(own, fingerprint, config, storage, cohort_input)
    for finding in lost:
        key = finding.key if finding.record is None else finding.record.commit_key
        yield Repair(finding.slide_id, finding.part, finding.key, left.get(key, ""))


def _why_not(finding: FaultyObject) -> str:
    if finding.part is ObjectKind.COMMIT:
        return "no manifest has a copy of this commit; remove the file, then mhim embed makes it again"
    if finding.part is ObjectKind.MANIFEST:
        return "a manifest is not made again; runs that are pinned to it cannot go on, the others can"
    return "mhim embed with the same keys writes it again"


def _restore_set(
    records: Sequence[CommitRecord],
    fingerprint: str,
    config: StoreRepairConfig,
    storage: Storage,
    cohort_input: CohortInput,
) -> dict[str, str]:
    """Embed the records' slides again; by commit key why one was left, where it was."""
    try:
        feature_set = FeatureSet.from_json(storage.get(feature_set_key(fingerprint)))
        spec = stored_spec(feature_set.tiling, "the store's slides")
        if spec.tissue is TissueMethod.file or spec.placed:
            spec = config.regions.settled(spec, fixed=True)
        card = _card_of(feature_set, spec, config)
        if spec.needs_files or spec.selects:
            selection = None
            if spec.selects:
                table = cohort_input.cohort.rows
                selection = settled_selection(spec, config.selection, storage, table, fixed=True)
            cohort_input = with_regions(cohort_input, spec, config.regions, named_here=False, selection=selection)
    except (StorageError, InputError, IntegrityError) as error:
        return {record.commit_key: str(error) for record in records}
    tasks = {task.slide_id: task for task in cohort_input.open_tasks()}
    refused = {row.slide_id: row.message for row in cohort_input.refused}
    left = {
        record.commit_key: refused.get(record.slide_id, "the cohort table does not have this slide")
        for record in records
        if record.slide_id not in tasks
    }
    known = [record for record in records if record.slide_id in tasks]
    present = map_all(lambda record: slide_identity(tasks[record.slide_id]), known)
    waiting = []
    for record, source in zip(known, present, strict=True):
        if source == record.reading.source:
            waiting.append(record)
        else:
            gone = "its file is not there or cannot be read" if source is None else "its file has changed since"
            left[record.commit_key] = f"{gone}: {tasks[record.slide_id].uri}"
    while waiting:
        together = {record.slide_id: record for record in reversed(waiting)}  # of one slide, one resolution at a time
        waiting = [record for record in waiting if together[record.slide_id] is not record]
        try:
            settled = with_gpus_for(config, [card])
            rows = _restored(together, feature_set, card, spec, settled, storage, cohort_input, tasks)
        except EncoderError as error:
            return left | {record.commit_key: str(error) for record in (*together.values(), *waiting)}
        for row in rows:
            if row.status is Status.FAILED:
                left[together[row.slide_id].commit_key] = f"{row.reason}: {row.message}"
    return left


def _card_of(feature_set: FeatureSet, spec: TileSpec, config: StoreRepairConfig) -> EncoderCard:
    """The set's encoder. Raises EncoderError or InputError if this version or these keys would make other features."""
    card = EncoderCard.from_dict(feature_set.encoder)
    remade = FeatureSet(tiling=tiling_identity(spec), encoder=card.to_dict(), encoder_identity=card.identity())
    if remade.fingerprint != feature_set.fingerprint:
        raise InputError("its tiling or encoder is another in this version of mhim; use the one that made it")
    if card.runtime == RUNTIME_CUDA and config.embedding.gpus_per_actor == 0:
        raise EncoderError("these features are made on a GPU; set gpus_per_actor=1")
    return card


def _task(record: CommitRecord, present: SlideTask) -> SlideTask:
    """The slide at the resolution that was used, whoever stated it then; its whole sha256 is checked if it was."""
    mpp = record.reading.mpp
    override = None if mpp.source == "slide" else mpp.x
    return present._replace(mpp_override=override, sha256=record.reading.source_sha256 or None)


def _restored(
    records: dict[SlideId, CommitRecord],
    feature_set: FeatureSet,
    card: EncoderCard,
    spec: TileSpec,
    config: StoreRepairConfig,
    storage: Storage,
    cohort_input: CohortInput,
    present: dict[SlideId, SlideTask],
) -> list[StatusRow]:
    from cluster.embedding import EmbedJob, JobEncoder

    tasks = [_task(record, present[slide_id]) for slide_id, record in records.items()]
    job = EmbedJob(
        storage.uri,
        (JobEncoder(feature_set, card, config.encoder.weights_of(card.id)),),
        spec,
        _ADMIT_ALL,
        config.decode.decode_timeout_s,
        config.decode.staging_dir or None,
        records,
        config.embedding.encode_timeout_s,
        segmenter=config.regions.segmenter(),
        remote=config.decode.remote(),
        tile_size_l0_px=config.regions.tile_size_l0_px,
        selection=cohort_input.selection,
    )
    return embed_tasks(tasks, job, config, storage, cohort_input, lambda row: None)
