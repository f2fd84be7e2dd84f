"""mhim embed cohort=my.csv store=./features: slides → one Parquet file of tile features per slide.

Inputs: the cohort table and its slides. Outputs, in the store: feature files, a commit per slide, a new version of the
manifest; `reports/` with one row per failed slide. Cost: decoding and encoding of what is not committed yet, nothing
for the rest; where nothing is left, Ray is not even started.
Exit code: 0, 3 (some slides failed), 4 (more than max_failed_fraction), 2, 5, 6.
"""

import time
from collections.abc import Iterable, Iterator, Sequence

from cluster.embedding import ACTOR_FAULTS, EmbedJob, SlideActor, configure_data, status_of, task_rows
from cluster.session import Resources, check_address, ray_session
from cluster.storage import open_storage
from flows.config import EmbedConfig, EmbedExecution, PredictConfig, part
from flows.embed_report import write_report
from flows.inputs import CohortInput, load_cohort, slide_identity
from flows.progress import SlideProgress
from flows.result import FlowResult
from mhim_core.embed.card import EncoderCard
from mhim_core.embed.registry import encoder_card
from mhim_core.errors import StorageError
from mhim_core.outcome import reconcile
from mhim_core.slides.spec import SlidePolicy, TileSpec, tiling_identity
from mhim_core.storage import Storage
from mhim_core.store.feature_sets import FeatureSet, register
from mhim_core.store.ledger import Ledger, Pending
from mhim_core.store.manifest import write_manifest
from mhim_core.types import FailureReason, SlideTask, Status, StatusRow


def run(config: EmbedConfig) -> FlowResult:
    """Raises CohortError, EncoderError, ConfigError (2), ConflictError (5), StorageError (6)."""
    check_address(config.ray_address)
    given = load_cohort(config.cohort, strict=config.strict)
    for finding in given.warnings:
        print(f"warning: {finding}")
    device = "cuda" if config.gpus_per_actor else "cpu"
    card = encoder_card(
        config.encoder,
        weights=config.encoder_weights or None,
        revision=config.encoder_revision or None,
        device=device,
    )
    return embed_cohort(given, card, part(config, TileSpec), part(config, SlidePolicy), config, config.store)


def embed_cohort(
    given: CohortInput,
    card: EncoderCard,
    spec: TileSpec,
    policy: SlidePolicy,
    config: EmbedConfig | PredictConfig,
    store_uri: str,
) -> FlowResult:
    """What is not committed yet → features; then the manifest, the report and the exit code."""
    storage = open_storage(store_uri)
    feature_set = FeatureSet(tiling=tiling_identity(spec), encoder=card.to_dict(), encoder_identity=card.identity())
    register(storage, feature_set)
    ledger = Ledger(storage, feature_set)
    tasks = given.tasks()
    pending = ledger.pending(
        tasks,
        hints=lambda task: given.hints.get(task.slide_id),
        policy=policy,
        identity=slide_identity,
        retry_failed=config.retry_failed,
    )
    rows = list(_already_known(pending))
    if pending.todo:
        job = EmbedJob(
            storage.uri,
            feature_set,
            card,
            config.encoder_weights or None,
            spec,
            policy,
            config.decode_timeout_s,
            config.staging_dir or None,
        )
        rows += embed_pending(_largest_first(pending.todo, given), job, config, ledger, given)
    outcome = reconcile([task.slide_id for task in tasks], rows)
    manifest = write_manifest(storage, feature_set, ledger.cohort_entries(pending, outcome.rows))
    report = write_report(storage, feature_set, outcome, manifest)
    print(outcome.summary())
    for row in outcome.failed[:20]:
        print(f"  {row.slide_id}: {row.reason}: {row.message}")
    print(f"manifest version {manifest.version} in {storage.uri}; report: {report}")
    return FlowResult(
        exit_code=outcome.exit_code(config.max_failed_fraction),
        outputs={"store": storage.uri, "manifest": storage.locate(manifest.key), "report": report},
        recomputed=bool(pending.todo),
    )


def embed_pending(
    tasks: Sequence[SlideTask], job: EmbedJob, config: EmbedExecution, ledger: Ledger, given: CohortInput
) -> list[StatusRow]:
    """Run the pipeline over the tasks. Failures are recorded as they come, so a killed driver forgets none."""
    rows = []
    by_id = {task.slide_id: task for task in tasks}
    with ray_session(config.ray_address, config.local_cpus) as cluster, SlideProgress(len(tasks)) as progress:
        for row in status_rows(tasks, job, config, cluster):
            progress.update(row)
            rows.append(row)
            if row.status is Status.FAILED:
                if row.reason is FailureReason.STORAGE:
                    _check_reachable(ledger.storage)
                hint = given.hints.get(row.slide_id)
                ledger.record_failure(by_id[row.slide_id], row, job.policy, hint)
    return rows


def status_rows(
    tasks: Sequence[SlideTask], job: EmbedJob, config: EmbedExecution, cluster: Resources
) -> Iterator[StatusRow]:
    """THE graph: tasks → encoder actors → status rows. One block a slide; tiles and features never travel."""
    import ray.data
    from ray.data import ActorPoolStrategy

    configure_data()
    num_actors = _num_actors(config, cluster, len(tasks))
    per_call = max(1, min(config.slides_per_call, len(tasks) // (2 * num_actors)))
    dataset = ray.data.from_items(task_rows(tasks), override_num_blocks=len(tasks)).map_batches(
        SlideActor,
        fn_constructor_args=(job,),
        batch_size=per_call,
        compute=ActorPoolStrategy(size=num_actors),
        num_cpus=1,
        num_gpus=config.gpus_per_actor or None,
        **ACTOR_FAULTS,
    )
    for row in dataset.iter_rows():
        yield status_of(row)


def _num_actors(config: EmbedExecution, cluster: Resources, num_tasks: int) -> int:
    if config.embed_actors is not None:
        return config.embed_actors
    by_gpu = cluster.num_gpus // config.gpus_per_actor if config.gpus_per_actor else None
    wanted = by_gpu if by_gpu is not None else cluster.num_cpus // 2  # one core encodes while another decodes
    return int(max(1, min(wanted, num_tasks)))


def _already_known(pending: Pending) -> Iterable[StatusRow]:
    for slide_id, record in pending.done.items():
        yield StatusRow(slide_id, Status.SKIPPED, commit_key=record.commit_key)
    yield from pending.given_up


def _largest_first(tasks: Sequence[SlideTask], given: CohortInput) -> list[SlideTask]:
    """Or the end of the run would wait for one giant."""
    sizes = {slide_id: hint.num_bytes for slide_id, hint in given.hints.items()}
    return sorted(tasks, key=lambda task: (-sizes.get(task.slide_id, 0), task.slide_id))


def _check_reachable(storage: Storage) -> None:
    """A failed commit is one slide's bad luck or a store that is gone: the latter ends the run (StorageError, 6)."""
    try:
        storage.put("probes/write.txt", str(time.time()).encode())
    except StorageError as error:
        raise StorageError(
            f"the store stopped taking writes, so the run ends here; run again to go on: {error}"
        ) from error
