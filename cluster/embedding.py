"""The adapter between Ray Data and the core's embedder: an actor that owns a decoder, encodes, commits, reports.

Only metadata travels through Ray: a row is a slide, in and out. Tiles go from a child process to the encoder in the
same actor, features go straight to the store.
"""

import json
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from cluster.decoding import MAX_ATTEMPTS, Decoder, JobStream, RetrySlide
from cluster.machine import memory_bytes
from cluster.s3 import process_retries
from cluster.storage import open_storage
from cluster.tile_selection import TileSelection
from cluster.watchdog import MAX_DEATHS, Pulse, Unwatched, Verdict, WatchedPulse, batch_text
from mhim_core import errors
from mhim_core.embed.card import EncoderCard
from mhim_core.embed.facts import PlanFacts
from mhim_core.embed.memory import check_batch
from mhim_core.embed.registry import Weights, load_encoder_for, num_weight_bytes
from mhim_core.errors import MhimError, SlideError, StorageError
from mhim_core.features import SlideFeatures
from mhim_core.fingerprint import canonical_json
from mhim_core.outcome import ENCODER_DIED, ENCODER_STOOD_STILL, merged
from mhim_core.slides.remote import RemoteOptions
from mhim_core.slides.segmenter import SegmenterFile
from mhim_core.slides.spec import SlidePolicy, TileSpec
from mhim_core.store.commit import Committed, commit, find_commit
from mhim_core.store.feature_sets import FeatureSet
from mhim_core.store.record import CommitRecord, skipped_row
from mhim_core.store.restore import check_source, restore
from mhim_core.types import FailureReason, SlideId, SlideTask, Status, StatusRow

if TYPE_CHECKING:
    import pyarrow as pa
    from ray.data.datasource import Datasource

    from mhim_core.embed.slide_encoder import Encoded, SlideEncoder
    from mhim_core.features import SlideReading

Batch = dict[str, np.ndarray]
Result = TypeVar("Result")


class JobEncoder(NamedTuple):
    """One of the encoders of a job."""

    feature_set: FeatureSet
    """Its features are committed to."""
    card: EncoderCard
    weights: Weights | None
    """Where its weights file lies on every node; None: its card tells."""


class EmbedJob(NamedTuple):
    """What an actor needs to know, the same for all of them: plain and picklable."""

    store_uri: str
    encoders: tuple[JobEncoder, ...]
    """They see the same tiles, which are read once."""
    spec: TileSpec
    policy: SlidePolicy
    decode_timeout_s: float
    staging_dir: str | None
    restores: dict[SlideId, CommitRecord] | None = None
    """The commits of slides that are embedded to be written again, byte for byte; None: the slides are new."""
    encode_timeout_s: float = 600.0
    """How long the encoders together may take for a batch of tiles before their actor is killed and started anew."""
    num_decoders: int = 1
    """Slides decoded at once for the encoder."""
    segmenter: SegmenterFile | None = None
    """The file that finds tissue, where the spec has tissue=file."""
    remote: RemoteOptions = RemoteOptions()
    """How slides at `s3://` are read."""
    tile_size_l0_px: int | None = None
    """Of files of coordinates that do not state it."""
    selection: TileSelection | None = None
    """How tiles are chosen, where the spec selects."""


class Spent:
    """An actor's seconds on one slide, by what it did: fields of its StatusRow."""

    def __init__(self) -> None:
        self._seconds = {"waited_s": 0.0, "encoded_s": 0.0, "stored_s": 0.0}

    @contextmanager
    def on(self, work: str, less: str = "") -> Iterator[None]:
        """The block's seconds are `work`'s, but for those that within it went to `less`."""
        start_s, others_s = time.monotonic(), self._seconds.get(less, 0.0)
        try:
            yield
        finally:
            within_s = self._seconds.get(less, 0.0) - others_s
            self._seconds[work] += time.monotonic() - start_s - within_s

    def rounded(self) -> dict[str, float]:
        return {work: round(max(0.0, seconds), 3) for work, seconds in self._seconds.items()}


class SlideActor:
    """Ray Data's callable: rows of tasks in, one status row per slide out, as soon as each is done.

    An error that concerns every slide (no such weights here, a conflict in the store) is raised neither in the
    constructor nor in a call, where Ray would start the actor again and again: it goes home as a row (`status_of`).
    """

    def __init__(self, job: EmbedJob, watch: Any = None) -> None:
        """`watch`: the handle of a `cluster.watchdog.Watch`; None: the actor is not watched."""
        # here, not above: the driver and the source of rows import this module too, and encode nothing
        from cluster.staging import STAGING_TIMEOUT_S, decode_staged, staging_sweep
        from mhim_core.embed.slide_encoder import SlideEncoder

        self._job = job
        self._node_id = _node_id()
        self._pulse: Pulse = Unwatched()
        if watch is not None:
            self._pulse = WatchedPulse(watch, self._node_id, job.encode_timeout_s)
        self._pulse.works(loading_limit_s(job.encode_timeout_s, *[None] * len(job.encoders)))
        num_bytes = [num_weight_bytes(encoder.card, weights=encoder.weights) for encoder in job.encoders]
        self._pulse.works(loading_limit_s(job.encode_timeout_s, *num_bytes))
        self._storage = open_storage(job.store_uri)
        decode = partial(
            decode_staged,
            spec=job.spec,
            policy=job.policy,
            staging_dir=job.staging_dir,
            segmenter=job.segmenter,
            remote=job.remote,
            tile_size_l0_px=job.tile_size_l0_px,
            selection=job.selection,
        )
        self._decoder: Decoder[SlideTask] = Decoder(
            decode,
            job.decode_timeout_s,
            STAGING_TIMEOUT_S,
            staging_sweep(job.staging_dir),
            process_retries,
            job.num_decoders,
        )
        self._decoder.start()
        self._decoder_limit_s = MAX_ATTEMPTS * (STAGING_TIMEOUT_S + job.decode_timeout_s)
        self._encoder: SlideEncoder | MhimError
        try:
            check_batch([encoder.card for encoder in job.encoders], job.spec.tile_px, 1, memory_bytes())
            self._encoder = SlideEncoder(
                [load_encoder_for(encoder.card, weights=encoder.weights) for encoder in job.encoders]
            )
        except MhimError as error:
            self._encoder = error
        except SystemExit as error:
            names = ", ".join(encoder.card.id for encoder in job.encoders)
            self._encoder = MhimError(f"encoder {names}: {_exit_text(error)} while it was loaded")
        self._pulse.waits(math.inf)
        self._unforeseen: dict[int | None, SlideId] = {}
        """By encoder's place the slide that met an unforeseen exception, until another is encoded; None: outside of
        them."""
        self._spent = Spent()

    def __call__(self, batch: Batch) -> Iterator[Batch]:
        tasks = [task_of(text) for text in batch["task"]]
        try:
            for row in self._rows(tasks):
                yield _batch(canonical_json(row))
        except MhimError as error:
            yield _batch(canonical_json({"error": type(error).__name__, "message": str(error)}))
        finally:
            self._pulse.waits(math.inf)

    def _rows(self, tasks: list[SlideTask]) -> Iterator[StatusRow]:
        if isinstance(self._encoder, MhimError):
            raise self._encoder
        settled = self._pulse.take([task.slide_id for task in tasks])
        todo = [task for task in tasks if task.slide_id not in settled]
        streams = self._decoder.streams(todo)
        for task in tasks:  # in this order, since a repeated call goes on after the rows that came
            known = settled.get(task.slide_id)
            if known is None:
                yield self._embed_watched(task, next(streams), self._encoder)
            elif isinstance(known, Verdict):
                yield _given_up(task, known, self._job.encode_timeout_s)._replace(node_id=self._node_id)
            else:
                yield known
        next(streams, None)  # what is left of the last

    def _embed_watched(self, task: SlideTask, stream: JobStream, encoder: "SlideEncoder") -> StatusRow:
        start_s, retries_before, self._spent = time.monotonic(), process_retries(), Spent()
        self._pulse.begin(task.slide_id)
        row = self._embed_with_retries(task, stream, encoder)
        self._wait_for_decoder()
        seconds = round(time.monotonic() - start_s, 3)
        retries = process_retries() - retries_before + stream.retries
        work: dict[str, Any] = {"seconds": seconds, "attempts": stream.attempts, "retries": retries}
        work |= {"node_id": self._node_id} | self._spent.rounded()
        row = row._replace(**work, parts=tuple(part._replace(**work) for part in row.parts))
        self._pulse.end(row)
        return row

    def _embed_with_retries(self, task: SlideTask, stream: JobStream, encoder: "SlideEncoder") -> StatusRow:
        while True:
            try:
                return self._row_of(task, stream, None, partial(self._embed, task, stream, encoder))
            except RetrySlide:
                continue

    def _row_of(
        self, task: SlideTask, stream: JobStream, place: int | None, work: Callable[[], Result]
    ) -> Result | StatusRow:
        """What `work` returns, or the row of the failure that it raised. `place`: the encoder that it concerns."""
        try:
            return work()
        except SlideError as error:
            return self._failure(task, place, error.reason, _stage(error.reason, stream), error.message, error)
        except StorageError as error:
            return self._failure(task, place, FailureReason.STORAGE, "commit", str(error), error)
        except (MhimError, RetrySlide):
            raise
        except SystemExit as error:  # Ray would take it for the actor's wish to end, and start no other
            self._check_alone(task, place, error)
            return self._failure(task, place, FailureReason.BAD_FEATURES, "encode", _exit_text(error), error)
        except Exception as error:
            self._check_alone(task, place, error)
            return self._failure(task, place, FailureReason.BAD_FEATURES, "encode", str(error), error)

    def _failure(
        self,
        task: SlideTask,
        place: int | None,
        reason: FailureReason,
        stage: str,
        message: str,
        error: BaseException,
    ) -> StatusRow:
        if place is not None and len(self._job.encoders) > 1 and self._name(place) not in message:
            message = f"encoder {self._name(place)}: {message}"
        return StatusRow(task.slide_id, Status.FAILED, reason, stage, type(error).__name__, message)

    def _name(self, place: int) -> str:
        return self._job.encoders[place].card.id

    def _check_alone(self, task: SlideTask, place: int | None, error: BaseException) -> None:
        """One slide is a row of the report. A second in a row is an encoder that is broken, such as a dead CUDA
        context, which would fail all that are left: MhimError."""
        before = self._unforeseen.get(place)
        if before not in (None, task.slide_id):
            encoder = "the encoder" if place is None else f"encoder {self._name(place)}"
            raise MhimError(
                f"{encoder} failed on two slides in a row, {before} and {task.slide_id}, the latter with "
                f"{type(error).__name__}: {error}; find the cause, then run again to go on"
            ) from error
        self._unforeseen[place] = task.slide_id

    def _items(self, stream: JobStream) -> Iterator[Any]:
        """The stream's items; from giving one until being asked for the next, this actor counts as at work."""
        items = iter(stream)
        while True:
            self._wait_for_decoder()
            with self._spent.on("waited_s"):
                item = next(items, None)
            self._pulse.works(self._job.encode_timeout_s + STORING_S * isinstance(item, PlanFacts))
            if item is None:
                return
            start_s, is_batch = time.monotonic(), not isinstance(item, PlanFacts)
            yield item
            del item  # or its tiles would keep their memory while the next is waited for
            if is_batch:
                self._pulse.took(time.monotonic() - start_s)

    def _wait_for_decoder(self) -> None:
        """It is bounded by itself; this bounds the wait for it."""
        self._pulse.waits(self._decoder_limit_s + STORING_S)

    def _embed(self, task: SlideTask, stream: JobStream, encoder: "SlideEncoder") -> StatusRow:
        """The slide's row: of one encoder, or of those of the task that have not committed it, in one pass."""
        items = self._items(stream)
        facts = next(items)
        assert isinstance(facts, PlanFacts)
        places = task.encoders or tuple(range(len(self._job.encoders)))
        rows: dict[int, StatusRow] = {}
        for place in places:
            with self._spent.on("stored_s"):
                known = self._row_of(task, stream, place, partial(self._known, task, place, facts.reading))
            if known is not None:
                rows[place] = known
        left = [place for place in places if place not in rows]
        if left:
            chosen = encoder if len(left) == len(self._job.encoders) else encoder.only(left)
            with self._spent.on("encoded_s", less="waited_s"):
                results = chosen.each(items, facts)
            self._unforeseen.pop(None, None)
            for place in left:  # each is let go once it is stored
                store = partial(self._store, task, place, results.pop(0), facts.decoding)
                with self._spent.on("stored_s"):
                    rows[place] = self._row_of(task, stream, place, store)
        return merged([rows[place] for place in places])

    def _known(self, task: SlideTask, place: int, reading: "SlideReading") -> StatusRow | None:
        """The row of a slide that this encoder need not encode."""
        if self._job.restores is not None:
            check_source(self._job.restores[task.slide_id], reading)
            return None
        self._pulse.works(self._job.encode_timeout_s + STORING_S)
        feature_set = self._job.encoders[place].feature_set
        present = find_commit(
            self._storage,
            feature_set,
            task.slide_id,
            reading.source,
            reading.mpp,
            reading.source_sha256,
            reading.regions,
        )
        return None if present is None else skipped_row(present)

    def _store(self, task: SlideTask, place: int, encoded: "Encoded", decoding: str) -> StatusRow:
        """Commit one encoder's features. Raises what kept the encoder from making them."""
        if isinstance(encoded, BaseException):
            raise encoded
        self._unforeseen.pop(place, None)
        self._pulse.works(self._job.encode_timeout_s + STORING_S + encoded.features.nbytes / SLOWEST_BYTES_PER_S)
        feature_set = self._job.encoders[place].feature_set
        if self._job.restores is None:
            row = self._commit(feature_set, encoded)
        else:
            row = self._restore(feature_set, encoded, self._job.restores[task.slide_id])
        return row._replace(message="; ".join(text for text in (row.message, decoding) if text))

    def _restore(self, feature_set: FeatureSet, features: SlideFeatures, committed: CommitRecord) -> StatusRow:
        record = restore(self._storage, feature_set, features, committed)
        return StatusRow(
            record.slide_id,
            record.status,
            is_empty=record.status is Status.EMPTY,
            num_tiles=record.num_tiles,
            num_bytes=record.num_bytes,
            commit_key=record.commit_key,
        )

    def _commit(self, feature_set: FeatureSet, features: SlideFeatures) -> StatusRow:
        result = commit(self._storage, feature_set, features)
        record = result.record
        if not isinstance(result, Committed):
            return skipped_row(record)
        is_empty = record.status is Status.EMPTY
        view = features.reading.view
        seen = "" if view is None else view.describe() if is_empty else view.warning()
        return StatusRow(
            record.slide_id,
            record.status,
            message=seen,
            is_empty=is_empty,
            num_tiles=record.num_tiles,
            num_bytes=record.num_bytes,
            commit_key=record.commit_key,
        )

    def close(self) -> None:
        """End the decoder's child. (Ray ends an actor's process, and the child ends with it.)"""
        self._decoder.close()


def task_rows(tasks: Sequence[SlideTask]) -> list[dict[str, str]]:
    """Tasks as rows for Ray Data: JSON text, since an Arrow column would turn a missing mpp into NaN."""
    return [{"task": json.dumps(task)} for task in tasks]


def task_of(text: str) -> SlideTask:
    """The task of such a row."""
    task = SlideTask(*json.loads(text))
    return task._replace(encoders=tuple(task.encoders), voters=tuple(task.voters))


_TASKS_OF_SOURCE = 1000
"""Slides that one of the source's tasks hands out: 130 kB."""


def task_source(tasks: Sequence[SlideTask]) -> "Datasource":
    """The rows of `task_rows`, one block each, made while the graph runs.

    A dataset of as many blocks that lie ready takes Ray 1.4 ms for each before the first slide begins.
    """
    from ray.data.block import BlockMetadata
    from ray.data.datasource import Datasource, ReadTask

    rows = task_rows(tasks)
    parts = [rows[start : start + _TASKS_OF_SOURCE] for start in range(0, len(rows), _TASKS_OF_SOURCE)]

    class Tasks(Datasource):
        def estimate_inmemory_data_size(self) -> int:
            return sum(len(row["task"]) for row in rows)

        def get_read_tasks(self, *_: Any, **__: Any) -> list[ReadTask]:
            return [
                ReadTask(partial(_blocks, part), BlockMetadata(len(part), None, None, None))  # sizes are unknown
                for part in parts
            ]

    return Tasks()


def _blocks(rows: list[dict[str, str]]) -> Iterator["pa.Table"]:
    import pyarrow as pa

    for row in rows:
        yield pa.Table.from_pylist([row])


def status_of(row: dict[str, Any]) -> StatusRow:
    """The status row an actor yielded. Raises the error it yielded instead, where that concerns every slide."""
    fields = json.loads(row["status"])
    if "error" in fields:
        kind = getattr(errors, fields["error"], MhimError)
        raise kind(fields["message"])
    return _status_row(fields)


def _status_row(fields: dict[str, Any]) -> StatusRow:
    reason = fields["reason"]
    return StatusRow(
        **{
            **fields,
            "status": Status(fields["status"]),
            "reason": None if reason is None else FailureReason(reason),
            "parts": tuple(map(_status_row, fields.get("parts", ()))),
        }
    )


NO_PROGRESS_S = 6 * 3600
"""How long no slide may finish anywhere before the run ends: the last resort. Actors that stand still are replaced much
sooner. Ray's default of half an hour is less than one big slide takes on a CPU."""


def configure_data() -> None:
    """Ray Data for few, long, metadata-only rows: every default that would lose a slide or hide one is set here."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = 1  # a status row leaves the actor when its slide is done, not with its call
    context.target_min_block_size = 1
    context.max_errored_blocks = -1  # slides of an actor that died too often are missing, and come again
    context.max_consecutive_actor_init_deaths = 3
    context.execution_no_progress_timeout_s = NO_PROGRESS_S
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what it logs as errors is raised, or a row, as well
    warnings.filterwarnings("ignore", message=".*ray_remote_args.*deprecated.*")


STARTING_S = 300.0
"""How long an actor may import its libraries, beside `encode_timeout_s` and what its weights take."""
LARGEST_WEIGHTS_BYTES = 5e9
"""Of an encoder whose weights are not on this machine yet, and so of unknown size: a network of 1.2 billion."""
SLOWEST_LOAD_BYTES_PER_S = 1e6
STORING_S = 900.0
"""How long a commit's requests may take, each patient with its store for minutes, beside `encode_timeout_s`."""
SLOWEST_BYTES_PER_S = 1e5
_LOST_NODES = 4
"""Of one call."""


def actor_faults(slides_per_call: int) -> dict[str, Any]:
    """A dead actor is started again and its call repeated as often as each of its slides may end it: the watch counts,
    and gives such a slide up. Not -1: a call that ends its actor before any slide would loop."""
    return {"max_restarts": -1, "max_task_retries": MAX_DEATHS * slides_per_call + _LOST_NODES}


def loading_limit_s(encode_timeout_s: float, *num_weight_bytes: int | None) -> float:
    """How long an actor may take to load its encoders; None: weights that must be downloaded."""
    num_bytes = sum(LARGEST_WEIGHTS_BYTES if size is None else size for size in num_weight_bytes)
    return STARTING_S + encode_timeout_s + num_bytes / SLOWEST_LOAD_BYTES_PER_S


def _batch(status: bytes) -> Batch:
    return {"status": np.array([status.decode()])}


_PLANNING = {
    FailureReason.NO_MPP,
    FailureReason.IMPLAUSIBLE_MPP,
    FailureReason.UPSAMPLE,
    FailureReason.TOO_LARGE,
    FailureReason.NO_ANNOTATION,
    FailureReason.BAD_ANNOTATION,
}
"""Refusals of a slide that opened well."""


def _stage(reason: FailureReason, stream: JobStream) -> str:
    """Where a slide failed: see `StatusRow.stage`."""
    if reason is FailureReason.BAD_FEATURES:
        return "encode"
    if reason in _PLANNING:
        return "plan"
    return "tiles" if stream.has_begun else "open"


def _given_up(task: SlideTask, verdict: Verdict, encode_timeout_s: float) -> StatusRow:
    """The row of a slide that ended its actor each time."""
    if verdict.was_still:
        reason, kind = FailureReason.TIMEOUT, ENCODER_STOOD_STILL
        message = (
            f"the encoder stood still for longer than encode_timeout_s={encode_timeout_s:g} and was killed "
            f"({batch_text(verdict.longest_s)}; if it is slow rather than stuck, set encode_timeout_s= higher)"
        )
    else:
        reason, kind, message = FailureReason.DECODER_CRASH, ENCODER_DIED, "the process of the encoder died"
    message = f"{message}, {verdict.num_deaths} times at this slide"
    return StatusRow(task.slide_id, Status.FAILED, reason, "encode", kind, message, attempts=verdict.num_deaths)


def _exit_text(error: SystemExit) -> str:
    return f"it asked its process to exit (code {error.code})"


def _node_id() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())
