"""mhim embed cohort=my.csv store=./features: slides → one Parquet file of tile features per slide.

Inputs: the cohort table and its slides. Outputs, in the store: feature files, a commit per slide, a new version of the
manifest; a folder in `reports/` with one row per failed slide, and the keys. With `encoder=a,b,c` all of this for each
encoder, as separate commands would write it. Cost: decoding and encoding of what is not committed yet, decoding once
for all encoders; if nothing is left to do, Ray is not started.
Exit code: 0, 3 (some slides failed, for one encoder at least), 4 (more than max_failed_fraction), 2, 5, 6.
"""

import math
import os
import socket
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster.machine import memory_bytes
from cluster.s3 import process_retries
from cluster.session import Resources, check_address, num_shares, plain_errors, ray_session, usable_cpus
from cluster.storage import open_storage, require_put_if_absent
from flows.config.commands import EmbedConfig, PredictConfig
from flows.config.files import write_resolved
from flows.config.flat import with_keys
from flows.config.keys import EmbedExecution, EncoderKeys
from flows.config.store import StoreRepairConfig
from flows.engine.result import FlowResult
from flows.runs.cohort import CohortInput, load_cohort
from flows.runs.devices import encodes_on_gpu, with_gpus_for
from flows.runs.embed_report import MAX_LINES, Embedded, new_report, retry_advice, view_lines, write_report
from flows.runs.open_sets import CohortEncoder, Decoding, OpenSet, by_tiling, decoding_for, open_sets
from flows.runs.progress import SlideProgress
from flows.runs.regions import with_regions
from flows.runs.selection import settled_selection
from flows.runs.storage_retries import print_retries
from flows.runs.tiling import settled_card, warn_of_scale
from mhim_core.embed.card import RUNTIME_CUDA, EncoderCard
from mhim_core.embed.memory import check_batch
from mhim_core.errors import ConfigError, MachineError, StorageError
from mhim_core.outcome import LOST, Outcome, joined, parts_of, reconcile
from mhim_core.printable import one_line
from mhim_core.slides.spec import TileSpec
from mhim_core.storage import Storage
from mhim_core.store.feature_sets import register
from mhim_core.store.ledger import Ledger
from mhim_core.store.manifest import write_manifest
from mhim_core.store.progress import ProgressTeller
from mhim_core.store.record import CommitRecord
from mhim_core.types import FailureReason, SlideId, SlideTask, Status, StatusRow
from mhim_core.workload import spread_order

if TYPE_CHECKING:  # torch: a command that finds everything done must not load it
    from cluster.embedding import EmbedJob
    from cluster.watchdog import Replaced


_PROBE_BYTES = 2**24


def run(config: EmbedConfig) -> FlowResult:
    """Raises CohortError, EncoderError, ConfigError (2), ConflictError (5), StorageError (6)."""
    check_address(config.ray.ray_address)
    cohort_input = load_cohort(config.data.cohort, strict=config.failures.strict, options=config.table)
    for finding in cohort_input.warnings:
        print(f"warning: {finding}")
    storage = open_storage(config.store)
    spec = config.regions.settled(config.tiles)
    selection = settled_selection(spec, config.selection, storage, cohort_input.cohort.rows)
    spec = spec if selection is None else selection.spec
    cohort_input = with_regions(cohort_input, spec, config.regions, selection=selection)
    for keys in config.encoder.each():
        warn_of_scale(keys, spec)
    encoders = []
    for keys in config.encoder.each():
        on_gpu = encodes_on_gpu(keys, spec, storage, config.embedding, config.ray)
        card = settled_card(keys, spec, storage, on_gpu=on_gpu)
        encoders.append(CohortEncoder(card, keys.weights_of(keys.encoder), _with_encoder(config, keys)))
    embedded = embed_encoders(cohort_input, encoders, spec, config, storage)
    return embedded[0].result if len(embedded) == 1 else _joined_result(embedded, encoders, config)


def embed_cohort(
    cohort_input: CohortInput,
    card: EncoderCard,
    spec: TileSpec,
    config: EmbedConfig | PredictConfig,
    storage: Storage,
) -> Embedded:
    """`embed_encoders` with one encoder, whose card is settled."""
    encoder = CohortEncoder(card, config.encoder.weights_of(card.id), config)
    (embedded,) = embed_encoders(cohort_input, [encoder], spec, config, storage)
    return embedded


def embed_encoders(
    cohort_input: CohortInput,
    encoders: Sequence[CohortEncoder],
    spec: TileSpec,
    config: EmbedConfig | PredictConfig,
    storage: Storage,
) -> list[Embedded]:
    """Embed the slides that are not committed yet, reading each once for the encoders that lack it; then write every
    encoder's manifest and report. One result per encoder, in their order.

    Raises ConfigError, before anything is written, if slides are left for an encoder on a GPU and actors have none, or
    if two encoders would make the same features.
    """
    config.embedding.check_room(config.ray)
    retries_before = process_retries()
    tasks = cohort_input.tasks()
    sets = open_sets(cohort_input, encoders, spec, storage)
    groups = by_tiling(sets)
    decodings = [decoding_for(group, cohort_input.open_tasks()) for group in groups]
    for decoding in decodings:
        _check_decoding(decoding, config)
    for open_set in sets:
        register(storage, open_set.feature_set)
    if any(decoding.tasks for decoding in decodings):
        require_put_if_absent(storage)
    if len(groups) > 1:
        print(f"note: these encoders have {len(groups)} tilings in {storage.uri}, and slides are read once for each")
    embedded: dict[str, Embedded] = {}
    num_retries = -retries_before
    for group, decoding in zip(groups, decodings, strict=True):
        rows = _embedded_rows(decoding, config, cohort_input, storage) if decoding.tasks else []
        num_retries += sum(row.retries for row in rows)
        own_rows = decoding.rows_of(rows)
        for open_set in group:
            key = open_set.feature_set.fingerprint
            outcome = reconcile([task.slide_id for task in tasks], [*open_set.known_rows, *own_rows.get(key, [])])
            heading = f"{open_set.encoder.card.id}: " if len(sets) > 1 else ""
            embedded[key] = _finish(open_set, outcome, storage, heading, num_retries)
    print_retries(num_retries + process_retries())
    return [embedded[open_set.feature_set.fingerprint] for open_set in sets]


def _embedded_rows(
    decoding: Decoding, config: EmbedConfig | PredictConfig, cohort_input: CohortInput, storage: Storage
) -> list[StatusRow]:
    config = with_gpus_for(config, [open_set.encoder.card for open_set in decoding.sets])
    from cluster.embedding import EmbedJob, JobEncoder

    job = EmbedJob(
        storage.uri,
        tuple(
            JobEncoder(open_set.feature_set, open_set.encoder.card, open_set.encoder.weights)
            for open_set in decoding.sets
        ),
        decoding.sets[0].spec,
        config.policy,
        config.decode.decode_timeout_s,
        config.decode.staging_dir or None,
        encode_timeout_s=config.embedding.encode_timeout_s,
        segmenter=config.regions.segmenter(),
        remote=config.decode.remote(),
        tile_size_l0_px=config.regions.tile_size_l0_px,
        selection=cohort_input.selection,
    )
    ledgers = [open_set.ledger for open_set in decoding.sets]
    return embed_pending(decoding.tasks, job, config, ledgers, cohort_input)


def embed_pending(
    tasks: Sequence[SlideTask],
    job: "EmbedJob",
    config: EmbedConfig | PredictConfig,
    ledgers: Sequence[Ledger],
    cohort_input: CohortInput,
) -> list[StatusRow]:
    """Embed the tasks' slides; `ledgers`: those of the job's encoders.

    Failures are recorded as they occur, so that none is lost if the driver is killed.
    """
    by_id = {task.slide_id: task for task in tasks}

    def record(row: StatusRow) -> None:
        if row.status is not Status.FAILED:
            return
        task, hint = by_id[row.slide_id], cohort_input.hints.get(row.slide_id)
        for place, part in parts_of(row, task, len(ledgers)).items():
            if part.status is Status.FAILED:
                ledgers[place].record_failure(task, part, job.policy, hint, job.decode_timeout_s)

    return embed_tasks(tasks, job, config, ledgers[0].storage, cohort_input, record)


def _finish(open_set: OpenSet, outcome: Outcome, storage: Storage, heading: str, num_retries: int) -> Embedded:
    """Write the manifest and the report of one feature set, and say what became of its slides.

    `num_retries`: requests that were repeated, but for this process's since it began.
    """
    config, feature_set, pending = open_set.encoder.config, open_set.feature_set, open_set.pending
    # a slide that is refused keeps no entry: what is committed of it has other regions, or had them
    refused: dict[SlideId, CommitRecord | None] = {row.slide_id: None for row in open_set.refused}
    entries = refused | open_set.ledger.cohort_entries(pending, outcome.rows)
    manifest = write_manifest(storage, feature_set, entries)
    folder = write_report(storage, feature_set, outcome, manifest, num_retries + process_retries())
    write_resolved(storage, config, "embed" if isinstance(config, EmbedConfig) else "predict", folder)
    report = storage.locate(folder)
    _tell(outcome, open_set, heading)
    print(f"manifest version {manifest.version} in {storage.uri}; report: {report}")
    result = FlowResult(
        exit_code=config.failures.exit_code_of(outcome),
        outputs={"store": storage.uri, "manifest": storage.locate(manifest.key), "report": report},
        recomputed=bool(pending.todo),
    )
    return Embedded(result, outcome, {key: record for key, record in entries.items() if record is not None})


def _with_encoder(config: EmbedConfig, keys: EncoderKeys) -> EmbedConfig:
    if len(config.encoder.names()) == 1:
        return config
    own = {name: getattr(keys, name) for name in ("encoder", "encoder_weights", "encoder_revision", "encoder_file")}
    return with_keys(config, **own)


def _joined_result(embedded: Sequence[Embedded], encoders: Sequence[CohortEncoder], config: EmbedConfig) -> FlowResult:
    """Of several encoders: a slide that failed for one of them counts as failed."""
    outcome = joined([own.outcome for own in embedded])
    print(f"{len(encoders)} encoders together: {outcome.summary()}")
    outputs = {"store": embedded[0].result.outputs["store"]}
    for encoder, own in zip(encoders, embedded, strict=True):
        for name in ("manifest", "report"):
            outputs[f"{name} of {encoder.card.id}"] = own.result.outputs[name]
    return FlowResult(
        exit_code=config.failures.exit_code_of(outcome),
        outputs=outputs,
        recomputed=any(own.result.recomputed for own in embedded),
    )


def embed_tasks(
    tasks: Sequence[SlideTask],
    job: "EmbedJob",
    config: EmbedConfig | PredictConfig | StoreRepairConfig,
    storage: Storage,
    cohort_input: CohortInput,
    record: Callable[[StatusRow], None],
) -> list[StatusRow]:
    """One row for every task, `record`ed as it comes. Raises StorageError once the store takes no writes at all."""
    rows: list[StatusRow] = []

    def record_reachable(row: StatusRow) -> None:
        if any(part.reason is FailureReason.STORAGE for part in (row, *row.parts)):
            _check_reachable(storage)
        record(row)

    by_id = {task.slide_id: task for task in tasks}
    sizes = {slide_id: float(_num_bytes(slide_id, cohort_input)) for slide_id in by_id}
    kinds = {slide_id: PurePath(task.uri).suffix.lower() for slide_id, task in by_id.items()}
    ordered = [tasks[index] for index in spread_order(list(sizes.values()))]
    with ray_session(config.ray.ray_address, config.ray.local_cpus) as cluster:
        num_actors = actor_pool(config.embedding, cluster, len(tasks)).initial_size
        teller = ProgressTeller(storage, new_report(), len(tasks), socket.gethostname(), os.getpid())
        with SlideProgress(sizes, num_actors, kinds, teller) as progress:
            for row in status_rows(ordered, job, config.embedding, cluster):
                progress.update(row)
                rows.append(row)
                record_reachable(row)
    return list(reconcile(list(by_id), rows).rows)


def status_rows(
    tasks: Sequence[SlideTask], job: "EmbedJob", config: EmbedExecution, cluster: Resources
) -> Iterator[StatusRow]:
    """A row for every task: those that were lost with an actor that was none's fault go through the graph again.

    Raises MachineError once all actors are lost, and errors that concern every slide, such as EncoderError from a node
    that lacks the weights.
    """
    from cluster.embedding import configure_data
    from cluster.watchdog import watched

    configure_data()
    left = {task.slide_id: task for task in tasks}
    with (
        plain_errors("embedding"),
        watched(config.encode_timeout_s, partial(_tell_replaced, config.encode_timeout_s)) as watch,
    ):
        while left:
            num_left = len(left)
            for row in _streamed(list(left.values()), job, config, cluster, watch):
                left.pop(row.slide_id, None)
                yield row
            if len(left) == num_left:
                raise MachineError(
                    f"every encoder actor was lost, with {num_left} slides left that are not at fault; run again to "
                    "go on (Ray's logs have more)"
                )


def _streamed(
    tasks: Sequence[SlideTask], job: "EmbedJob", config: EmbedExecution, cluster: Resources, watch: Any
) -> Iterator[StatusRow]:
    """The graph: tasks → encoder actors → status rows. One block per slide; tiles and features stay in the actor."""
    import ray.data
    from ray.data import ActorPoolStrategy

    from cluster.embedding import SlideActor, actor_faults, status_of, task_source

    pool = actor_pool(config, cluster, len(tasks))
    if shortage := cluster.shortage(pool.initial_size, config.gpus_per_actor or 0.0):
        print(shortage, flush=True)
    source = ray.data.read_datasource(task_source(tasks), num_cpus=0, concurrency=1)
    dataset = source.map_batches(
        SlideActor,
        fn_constructor_args=(job._replace(num_decoders=pool.num_decoders), watch),
        batch_size=pool.slides_per_call,
        compute=ActorPoolStrategy(min_size=pool.min_size, max_size=pool.max_size, initial_size=pool.initial_size),
        num_cpus=1,
        num_gpus=config.gpus_per_actor or None,
        **actor_faults(pool.slides_per_call),
    )
    for row in dataset.iter_rows():
        yield status_of(row)


def _tell_replaced(encode_timeout_s: float, replaced: "Replaced") -> None:
    from cluster.watchdog import batch_text

    limit = f"encode_timeout_s={encode_timeout_s:g}"
    if replaced.slide_id is None:
        message = (
            f"an encoder had not loaded after {replaced.seconds:.0f} s and is started again; if that node is slow to "
            f"load it, set encode_timeout_s= higher (now {limit})"
        )
    else:
        message = (
            f"an encoder stood still at slide {replaced.slide_id} for longer than {limit} and is replaced "
            f"({batch_text(replaced.longest_s)}; if it is slow rather than stuck, set it higher)"
        )
    print(f"warning: {one_line(message)}", file=sys.stderr, flush=True)


class ActorPool(NamedTuple):
    """The number of encoder actors, of slides in one call of an actor, and of its decoders."""

    min_size: int
    initial_size: int
    max_size: int
    slides_per_call: int
    num_decoders: int = 1


def actor_pool(config: EmbedExecution, cluster: Resources, num_tasks: int) -> ActorPool:
    """`embed_actors` actors, or one per CPU or GPU share; on a cluster, more of them as nodes join.

    An encoder on a CPU runs on one thread, which leaves room on its core for its decoder. One on a GPU takes tiles
    faster than a core decodes them: the CPUs that the cluster has for each are its decoders', but for its own.
    """
    room, num_decoders = cluster.num_cpus, 1
    if config.gpus_per_actor:
        num_encoders = max(1, num_shares(cluster.num_gpus, config.gpus_per_actor))
        room = min(room, num_encoders)
        num_decoders = max(1, min(_MAX_DECODERS, int(cluster.num_cpus / num_encoders) - 1))
    num_decoders = config.decoders_per_actor or num_decoders
    initial = config.embed_actors or max(1, min(int(room), num_tasks))
    per_call = max(1, min(max(config.slides_per_call, num_decoders), num_tasks // (2 * initial)))
    num_decoders = min(num_decoders, per_call)
    if config.embed_actors is not None or cluster.is_local:
        return ActorPool(initial, initial, initial, per_call, num_decoders)
    return ActorPool(1, initial, max(initial, math.ceil(num_tasks / per_call)), per_call, num_decoders)


_MAX_DECODERS = 8
"""Chosen here; each keeps up to 64 MiB of tiles ready. decoders_per_actor= may be more."""


def _tell(outcome: Outcome, open_set: OpenSet, heading: str) -> None:
    print(f"{heading}{outcome.summary()}")
    not_tried = {row.slide_id for row in (*open_set.pending.given_up, *open_set.refused)}
    untold = [row for row in outcome.failed if row.slide_id in not_tried or row.error_type == LOST]
    for row in untold[:MAX_LINES]:  # the others were told when they failed
        print(f"  {row.slide_id}: {row.reason}: {one_line(row.message)}")
    for line in view_lines(outcome):
        print(one_line(line))
    if advice := retry_advice(open_set.pending.given_up):
        print(advice)


def _num_bytes(slide_id: SlideId, cohort_input: CohortInput) -> int:
    """Size of the slide's file; 0 if it is missing."""
    hint = cohort_input.hints.get(slide_id)
    return 0 if hint is None else hint.num_bytes


def _check_decoding(decoding: Decoding, config: EmbedConfig | PredictConfig) -> None:
    """Raises ConfigError for what actors of this machine, or of its keys, could never do."""
    if not decoding.tasks:
        return
    cards = [open_set.encoder.card for open_set in decoding.sets]
    config = with_gpus_for(config, cards)
    for card in cards:
        _check_device(card, config.embedding)
    config.embedding.check_room(config.ray)  # now that it is settled whether they take GPUs
    _check_memory(cards, decoding.sets[0].spec, config, len(decoding.tasks))


def _check_device(card: EncoderCard, config: EmbedExecution) -> None:
    if card.runtime == RUNTIME_CUDA and not config.gpus_per_actor:
        raise ConfigError(
            f"these features of {card.id} are made on a GPU ({card.runtime}; a CPU's differ in the last bits), but "
            "gpus_per_actor=0 gives the encoder none; set gpus_per_actor=1, or a share such as gpus_per_actor=0.25"
        )


def _check_memory(
    cards: Sequence[EncoderCard], spec: TileSpec, config: EmbedConfig | PredictConfig, num_tasks: int
) -> None:
    """A local Ray's actors share this machine; those of a cluster look at theirs when they start."""
    if config.ray.ray_address == "local":
        num_cpus = config.ray.local_cpus or usable_cpus()
        num_actors = config.embedding.embed_actors or min(num_cpus, num_tasks)
        check_batch(cards, spec.tile_px, num_actors, memory_bytes())


def _check_reachable(storage: Storage) -> None:
    """After a failed commit: raises StorageError (6), which ends the run, if the store takes no writes at all."""
    key = f"probe/{uuid.uuid4().hex}"
    try:
        # a disk has room for an empty file when it has none for a slide's features
        storage.put(key, b"" if "://" in storage.uri else bytes(_PROBE_BYTES))
        storage.delete(key)
    except StorageError as error:
        raise StorageError(
            f"the store stopped taking writes, so the run ends here; run it again to resume: {error}"
        ) from error
