"""The adapter between Ray Data and the core's embedder: an actor that owns a decoder, encodes, commits, reports.

Only metadata travels through Ray: a row is a slide, in and out. Tiles go from a child process to the encoder in the
same actor, features go straight to the store.
"""

import json
import time
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from cluster.decoding import Decoder, JobStream, RetrySlide
from cluster.storage import download, object_hint, open_storage
from mhim_core.embed.card import EncoderCard
from mhim_core.embed.decode import decode_slide
from mhim_core.embed.registry import load_encoder_for
from mhim_core.embed.slide_encoder import PlanFacts, SlideEncoder
from mhim_core.errors import NotFoundError, SlideError, StorageError
from mhim_core.features import SlideFeatures
from mhim_core.fingerprint import canonical_json
from mhim_core.slides.identity import source_hint
from mhim_core.slides.reader import TileBatch
from mhim_core.slides.spec import SlidePolicy, TileSpec
from mhim_core.slides.staging import staged
from mhim_core.store.commit import Committed, commit, find_commit
from mhim_core.store.feature_sets import FeatureSet
from mhim_core.types import FailureReason, SlideTask, Status, StatusRow

Batch = dict[str, np.ndarray]


class EmbedJob(NamedTuple):
    """What an actor needs to know, the same for all of them: plain and picklable."""

    store_uri: str
    feature_set: FeatureSet
    card: EncoderCard
    weights: str | None
    spec: TileSpec
    policy: SlidePolicy
    decode_timeout_s: float
    staging_dir: str | None


class SlideActor:
    """Ray Data's callable: rows of tasks in, one status row per slide out, as soon as each is done."""

    def __init__(self, job: EmbedJob) -> None:
        self._job = job
        self._storage = open_storage(job.store_uri)
        self._encoder = SlideEncoder([load_encoder_for(job.card, weights=job.weights)])
        decode = partial(_decode, spec=job.spec, policy=job.policy, staging_dir=job.staging_dir)
        self._decoder: Decoder[SlideTask] = Decoder(decode, job.decode_timeout_s)
        self._node_id = _node_id()

    def __call__(self, batch: Batch) -> Iterator[Batch]:
        tasks = [SlideTask(*json.loads(text)) for text in batch["task"]]
        for task, stream in zip(tasks, self._decoder.streams(tasks), strict=True):
            start_s = time.monotonic()
            row = self._embed_with_retries(task, stream)
            seconds = round(time.monotonic() - start_s, 3)
            row = row._replace(seconds=seconds, attempts=stream.attempts, node_id=self._node_id)
            yield {"status": np.array([canonical_json(row).decode()])}

    def _embed_with_retries(self, task: SlideTask, stream: JobStream) -> StatusRow:
        while True:
            try:
                return self._embed(task, stream)
            except RetrySlide:
                continue
            except SlideError as error:
                return _failure(task, error.reason, "slide", error.message, error)
            except StorageError as error:
                return _failure(task, FailureReason.STORAGE, "commit", str(error), error)
            except Exception as error:  # one slide is a row of the report, never the end of the run; its type is named
                return _failure(task, FailureReason.BAD_FEATURES, "encode", str(error), error)

    def _embed(self, task: SlideTask, stream: JobStream) -> StatusRow:
        items = iter(stream)
        facts = next(items)
        assert isinstance(facts, PlanFacts)
        present = find_commit(
            self._storage, self._job.feature_set, task.slide_id, facts.source, facts.mpp, facts.source_sha256
        )
        if present is not None:
            return StatusRow(task.slide_id, Status.SKIPPED, commit_key=present.commit_key)
        (features,) = self._encoder(items, facts)
        return self._commit(features)

    def _commit(self, features: SlideFeatures) -> StatusRow:
        result = commit(self._storage, self._job.feature_set, features)
        record = result.record
        status = record.status if isinstance(result, Committed) else Status.SKIPPED
        return StatusRow(
            record.slide_id,
            status,
            num_tiles=record.num_tiles,
            num_bytes=record.num_bytes,
            commit_key=record.commit_key,
        )

    def __del__(self) -> None:
        decoder = getattr(self, "_decoder", None)
        if decoder is not None:
            decoder.close()


def task_rows(tasks: Sequence[SlideTask]) -> list[dict[str, str]]:
    """Tasks as rows for Ray Data: JSON text, since an Arrow column would turn a missing mpp into NaN."""
    return [{"task": json.dumps(task)} for task in tasks]


def status_of(row: dict[str, Any]) -> StatusRow:
    """The status row an actor yielded."""
    fields = json.loads(row["status"])
    reason = fields["reason"]
    return StatusRow(
        **{
            **fields,
            "status": Status(fields["status"]),
            "reason": None if reason is None else FailureReason(reason),
        }
    )


def configure_data() -> None:
    """Ray Data for few, long, metadata-only rows: every default that would lose a slide or hide one is set here."""
    import logging

    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = 1  # a status row leaves the actor when its slide is done, not with its call
    context.target_min_block_size = 1
    context.actor_init_retry_on_errors = True
    context.actor_init_max_retries = 2
    context.max_consecutive_actor_init_deaths = 3
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated", module="ray")
    warnings.filterwarnings("ignore", message=".*ray_remote_args.*deprecated.*")


ACTOR_FAULTS: dict[str, Any] = {"max_restarts": -1, "max_task_retries": 2}
"""A killed actor is started again and its call repeated, at most twice: with -1 a slide that kills it would loop."""


def _decode(
    task: SlideTask, *, spec: TileSpec, policy: SlidePolicy, staging_dir: str | None
) -> Iterator[PlanFacts | TileBatch]:
    """Runs in the decoder's child process."""
    remote = "://" in task.uri
    try:
        hint = object_hint(task.uri) if remote else source_hint(task.uri)
    except NotFoundError as error:
        raise SlideError(FailureReason.NOT_FOUND, str(error)) from error
    with staged(task.uri, download, staging_dir, hint.num_bytes) as path:
        yield from decode_slide(path, task, hint, spec=spec, policy=policy)


def _failure(task: SlideTask, reason: FailureReason, stage: str, message: str, error: Exception) -> StatusRow:
    kind = type(error).__name__
    return StatusRow(task.slide_id, Status.FAILED, reason, stage, kind, message)


def _node_id() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())
