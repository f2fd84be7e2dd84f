"""The embedding actor without Ray: what it yields for a slide, and for an error that concerns them all."""

import contextlib
import gc
import math
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cluster.embedding import EmbedJob, JobEncoder, SlideActor, loading_limit_s, status_of, task_rows, task_source
from cluster.storage import open_storage
from cluster.watchdog import Unwatched, Verdict
from mhim_core.demo.pyramid import write_pyramid
from mhim_core.embed.efficientnet_lite0 import PACKAGE
from mhim_core.embed.registry import encoder_card
from mhim_core.errors import ConfigError, ConflictError, EncoderError, MhimError, StorageError
from mhim_core.slides.spec import SlidePolicy, TileSpec, tiling_identity
from mhim_core.store.feature_sets import FeatureSet
from mhim_core.store.layout import commits_prefix
from mhim_core.store.record import CommitRecord
from mhim_core.types import FailureReason, SlideId, SlideTask, Status, StatusRow


def make_actor(store: Path, *names: str, weights: str | None = None, **changes: Any) -> SlideActor:
    spec, encoders = TileSpec(), []
    for name in names or ("hed-texture",):
        card = encoder_card(name)
        feature_set = FeatureSet(tiling=tiling_identity(spec), encoder=card.to_dict(), encoder_identity=card.identity())
        encoders.append(JobEncoder(feature_set, card, weights))
    job = EmbedJob(str(store), tuple(encoders), spec, SlidePolicy(), 60.0, None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cluster.embedding._node_id", lambda: "here")
        return SlideActor(job._replace(**changes))


@pytest.fixture(scope="module")
def actor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlideActor]:
    """One for all tests: its decoder's child takes a second to start."""
    made = make_actor(tmp_path_factory.mktemp("actor") / "store")
    yield made
    made.close()


def rows_of(actor: SlideActor, *tasks: SlideTask) -> list[StatusRow]:
    batch = {"task": np.array([row["task"] for row in task_rows(tasks)])}
    return [status_of({"status": row["status"][0]}) for row in actor(batch)]


def slide(folder: Path, name: str, mpp: float | None = 0.5) -> SlideTask:
    pixels = np.full((600, 600, 3), 243, np.uint8)
    noise = np.random.default_rng(list(str(folder / name).encode())).integers(-25, 25, (400, 400, 1))
    pixels[100:500, 100:500] = np.clip(np.array([205, 130, 175]) + noise, 0, 255)
    write_pyramid(folder / name, pixels, mpp=None if mpp is None else (mpp, mpp))
    return SlideTask(SlideId(name), str(folder / name))


def test_the_driver_and_the_source_of_rows_load_neither_torch_nor_a_decoder() -> None:
    program = "import sys, cluster.embedding; print(*{'torch', 'scipy', 'skimage', 'openslide'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout == "\n"


def test_the_source_hands_out_every_slide_once_in_order_a_block_each() -> None:
    tasks = [SlideTask(SlideId(f"s{number}"), f"/slides/s{number}.svs") for number in range(2500)]
    reads = task_source(tasks).get_read_tasks(1)
    assert [read.metadata.num_rows for read in reads] == [1000, 1000, 500]
    blocks = [block.to_pylist() for read in reads for block in read()]
    assert blocks == [[row] for row in task_rows(tasks)]


def test_several_decoders_of_an_actor_give_the_rows_and_features_of_one(tmp_path: Path) -> None:
    tasks = [slide(tmp_path, f"{number}.tiff") for number in range(4)]
    tasks.insert(1, SlideTask(SlideId("absent"), str(tmp_path / "absent.tiff")))
    commits = []
    for num_decoders in (1, 3):
        store = tmp_path / f"store-{num_decoders}"
        with contextlib.closing(make_actor(store, num_decoders=num_decoders)) as made:
            rows = rows_of(made, *tasks)
        assert [row.slide_id for row in rows] == [task.slide_id for task in tasks]
        assert [row.status for row in rows] == [Status.OK, Status.FAILED, *[Status.OK] * 3]
        files = sorted(path for path in store.rglob("*.parquet"))
        commits.append([(path.name, path.read_bytes()) for path in files])
    assert len(commits[0]) == 4
    assert commits[0] == commits[1]


def test_an_encoder_that_exits_is_a_row_and_the_actor_goes_on(
    actor: SlideActor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = actor._encoder.each

    def encode(batches: Any, facts: Any) -> Any:
        return sys.exit(3) if facts.slide_id == "one.tiff" else inner(batches, facts)

    monkeypatch.setattr(actor._encoder, "each", encode)
    rows = rows_of(actor, slide(tmp_path, "one.tiff"), slide(tmp_path, "other.tiff"))
    assert [(row.status, row.reason, row.error_type) for row in rows] == [
        (Status.FAILED, FailureReason.BAD_FEATURES, "SystemExit"),
        (Status.OK, None, ""),
    ]


class Pulse(Unwatched):
    """One whose watch has settled some slides; it keeps what it is told."""

    def __init__(self, settled: dict[SlideId, Any]) -> None:
        self.settled, self.told = settled, []

    def take(self, slide_ids: Any) -> dict[SlideId, Any]:
        return self.settled

    def begin(self, slide_id: SlideId) -> None:
        self.told.append(("begin", slide_id))

    def end(self, row: StatusRow) -> None:
        self.told.append(("end", row.slide_id))

    def works(self, limit_s: float) -> None:
        self.told.append(("works", limit_s))

    def waits(self, limit_s: float) -> None:
        self.told.append(("waits", limit_s))

    def took(self, seconds: float) -> None:
        self.told.append(("took", seconds))


def test_a_repeated_call_begins_neither_what_is_done_nor_what_ended_two_actors(
    actor: SlideActor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("done.tiff", "deadly.tiff", "still.tiff", "left.tiff")
    tasks = [slide(tmp_path, name) for name in names]
    done = StatusRow(SlideId("done.tiff"), Status.OK, num_tiles=7)
    settled = {done.slide_id: done, "deadly.tiff": Verdict(2, False), "still.tiff": Verdict(2, True, longest_s=4.5)}
    monkeypatch.setattr(actor, "_pulse", pulse := Pulse(settled))
    rows = rows_of(actor, *tasks)
    assert [row.slide_id for row in rows] == list(names)
    assert rows[0] == done
    assert [(row.status, row.reason, row.error_type, row.attempts) for row in rows[1:]] == [
        (Status.FAILED, FailureReason.DECODER_CRASH, "EncoderDied", 2),
        (Status.FAILED, FailureReason.TIMEOUT, "EncoderStandsStill", 2),
        (Status.OK, None, "", 1),
    ]
    for part in ("encode_timeout_s=600", "took 4.5 s"):
        assert part in rows[2].message
    assert [seconds < 60 for kind, seconds in pulse.told if kind == "took"] == [True], "a batch of tiles"
    assert [call for call in pulse.told if call[0] in ("begin", "end")] == [
        ("begin", "left.tiff"),
        ("end", "left.tiff"),
    ]
    working = [limit_s for kind, limit_s in pulse.told if kind == "works"]
    assert all(math.isfinite(limit_s) for limit_s in working)
    assert 600.0 in working, "a batch of tiles"
    assert pulse.told[-1] == ("waits", math.inf), "it has nothing to do"


def test_a_commit_states_who_decoded_its_slide(actor: SlideActor, tmp_path: Path) -> None:
    """One feature set holds slides of both backends: only the commit can tell."""
    pyramid = slide(tmp_path, "pyramid.tiff")
    with Image.open(pyramid.uri) as picture:
        picture.convert("RGB").save(tmp_path / "picture.png")
    rows = rows_of(actor, pyramid, SlideTask(SlideId("picture.png"), str(tmp_path / "picture.png"), 0.5))
    assert [row.status for row in rows] == [Status.OK, Status.OK]
    records = [CommitRecord.from_json(actor._storage.get(row.commit_key), row.slide_id) for row in rows]
    assert [record.reading.backend for record in records] == [("openslide", 1), ("plain", 1)]
    assert records[0].feature_set == records[1].feature_set


def test_each_slide_s_row_tells_its_status_its_stage_and_who_did_it(actor: SlideActor, tmp_path: Path) -> None:
    good, silent = slide(tmp_path, "good.tiff"), slide(tmp_path, "silent.tiff", mpp=None)
    (tmp_path / "broken.tiff").write_bytes(b"no slide")
    broken, absent = (SlideTask(SlideId(name), str(tmp_path / name)) for name in ("broken.tiff", "absent.tiff"))
    rows = rows_of(actor, good, silent, broken, absent)
    assert [(row.status, row.reason, row.stage) for row in rows] == [
        (Status.OK, None, ""),
        (Status.FAILED, FailureReason.NO_MPP, "plan"),
        (Status.FAILED, FailureReason.OPEN, "open"),
        (Status.FAILED, FailureReason.NOT_FOUND, "open"),
    ]
    assert {row.node_id for row in rows} == {"here"}
    assert rows[0].num_tiles > 0
    assert [row.status for row in rows_of(actor, good)] == [Status.SKIPPED]


def test_an_encoder_has_as_long_to_load_as_its_weights_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert loading_limit_s(600.0, 0) == 900.0
    assert loading_limit_s(600.0, 1_200_000_000) == 900.0 + 1200
    assert loading_limit_s(1800.0, 0) == 2100.0
    assert loading_limit_s(600.0, None) > 3600, "a download"
    assert loading_limit_s(600.0, 0, 3_000_000, 5_000_000) == 900.0 + 8
    limits: list[float] = []
    pulse = Pulse({})
    monkeypatch.setattr(pulse, "works", limits.append)
    monkeypatch.setattr("cluster.embedding.Unwatched", lambda: pulse)
    weights = tmp_path / "weights.pth"
    weights.write_bytes(bytes(3_000_000))
    made = make_actor(tmp_path / "store", "efficientnet-lite0", weights=str(weights))
    made.close()
    assert limits[-1] == loading_limit_s(600.0, 3_000_000)


def test_an_encoder_that_cannot_be_had_is_raised_at_home_and_not_in_the_actor(
    tmp_path: Path,
) -> None:
    actor = make_actor(tmp_path / "store", "efficientnet-lite0", weights=str(tmp_path / "absent.pth"))
    with pytest.raises(EncoderError, match=r"absent\.pth"):
        rows_of(actor, slide(tmp_path, "one.tiff"))


@pytest.mark.parametrize("error", [ConflictError("taken by another"), MhimError("odd")])
def test_an_error_that_concerns_every_slide_comes_home_as_it_is(
    actor: SlideActor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: MhimError
) -> None:
    def commit(*_: object) -> None:
        raise error

    monkeypatch.setattr("cluster.embedding.commit", commit)
    with pytest.raises(type(error), match=str(error)):
        rows_of(actor, slide(tmp_path, "one.tiff"))


def test_a_store_that_refuses_one_commit_costs_one_slide_here(
    actor: SlideActor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cluster import embedding

    commit = embedding.commit

    def refuse_first(*arguments: Any) -> Any:
        monkeypatch.setattr("cluster.embedding.commit", commit)
        raise StorageError("denied")

    monkeypatch.setattr("cluster.embedding.commit", refuse_first)
    rows = rows_of(actor, slide(tmp_path, "one.tiff"), slide(tmp_path, "other.tiff"))
    assert [(row.status, row.reason, row.stage) for row in rows] == [
        (Status.FAILED, FailureReason.STORAGE, "commit"),
        (Status.OK, None, ""),
    ]


class Encoder:
    """The actor's, but for the calls whose number is in `faulty`."""

    def __init__(self, inner: Any, faulty: set[int]) -> None:
        self._inner, self._faulty, self._num_calls = inner, faulty, 0

    def __call__(self, batches: Any, facts: Any) -> Any:
        self._num_calls += 1
        if self._num_calls in self._faulty:
            raise RuntimeError("CUDA error: an illegal memory access")
        return self._inner(batches, facts)


def test_an_unforeseen_exception_costs_one_slide_and_a_second_in_a_row_ends_the_run(
    actor: SlideActor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actor._encoder, "each", Encoder(actor._encoder.each, {1, 3, 4}))
    slides = [slide(tmp_path, f"{number}.tiff") for number in range(5)]
    rows = rows_of(actor, *slides[:3])
    assert [(row.reason, row.stage, row.error_type) for row in rows] == [
        (FailureReason.BAD_FEATURES, "encode", "RuntimeError"),
        (None, "", ""),
        (FailureReason.BAD_FEATURES, "encode", "RuntimeError"),
    ]
    ended = r"two slides in a row, 2\.tiff and 3\.tiff, .* RuntimeError: CUDA error: an illegal memory access"
    with pytest.raises(MhimError, match=ended) as caught:
        rows_of(actor, *slides[3:])
    assert type(caught.value) is MhimError


@pytest.mark.s3
@pytest.mark.fault(7)
def test_a_slide_at_s3_is_not_found_or_denied_by_its_own_name_and_its_decoder_s_retries_count(
    tmp_path: Path, proxy: Any, bucket: str
) -> None:
    actor, task = make_actor(tmp_path / "store"), SlideTask(SlideId("far"), f"s3://{bucket}/far.tiff")
    try:
        proxy.faults = [503, "reset"]
        (absent,) = rows_of(actor, task)
        proxy.always = 403
        (denied,) = rows_of(actor, task)
    finally:
        actor.close()
    assert (absent.reason, absent.stage, absent.retries) == (FailureReason.NOT_FOUND, "open", 2)
    assert (denied.reason, denied.stage) == (FailureReason.STORAGE, "open")
    assert f"the bucket {bucket} denies access" in denied.message


@pytest.mark.thorough
@pytest.mark.fault(41)
def test_two_hundred_slides_through_one_actor_grow_neither_memory_nor_open_files(tmp_path: Path) -> None:
    """Of the actor and of its decoder."""
    made = make_actor(tmp_path / "store")
    source = slide(tmp_path, "small.tiff").uri
    kept: list[tuple[int, int]] = []
    try:
        for index in range(200):
            (row,) = rows_of(made, SlideTask(SlideId(f"s{index:03}"), source))
            assert row.status is Status.OK
            if index >= 100 and index % 5 == 4:
                decoders = [child.pid for child in multiprocessing.active_children() if child.pid]
                assert decoders
                kept.append(_in_use(os.getpid(), *decoders))
    finally:
        made.close()
    early, late = kept[:10], kept[10:]
    # the least of each: what earlier tests have left in this process comes and goes
    assert min(each[1] for each in late) <= min(each[1] for each in early) + 1
    growth = min(each[0] for each in late) - min(each[0] for each in early)
    assert growth < 4 * 2**20, "80 kB a slide"


def _in_use(*pids: int) -> tuple[int, int]:
    """Bytes of memory and open files of these processes together."""
    gc.collect()
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return pages * os.sysconf("SC_PAGE_SIZE"), sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)


def test_an_actor_on_a_node_too_small_for_a_batch_of_tiles_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.embedding.memory_bytes", lambda: 10**6)
    small = make_actor(tmp_path / "store")
    try:
        with pytest.raises(ConfigError, match="the machine has 0"):
            rows_of(small, SlideTask(SlideId("a"), str(tmp_path / "a.tiff")))
    finally:
        small.close()


@pytest.mark.s3
@pytest.mark.fault(7)
def test_requests_that_a_slide_had_to_repeat_come_home_with_its_row(
    actor: SlideActor, tmp_path: Path, proxy: Any, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    monkeypatch.setattr(actor, "_storage", open_storage(f"s3://{bucket}/store"))
    proxy.faults = [503, "ok", "reset"]
    first, second = rows_of(actor, slide(tmp_path, "throttled.tiff"), slide(tmp_path, "untroubled.tiff"))
    assert (first.status, first.retries) == (Status.OK, 2)
    assert (second.status, second.retries) == (Status.OK, 0)


PAIR = ("hed-texture", "efficientnet-lite0")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlideActor]:
    """An actor of two encoders."""
    if find_spec(PACKAGE) is None:
        pytest.skip("the extra `encoders` is not installed")
    made = make_actor(tmp_path_factory.mktemp("pair") / "store", *PAIR)
    yield made
    made.close()


class Spoilt:
    """An encoder that does not work for the calls whose number is in `faulty`."""

    def __init__(self, inner: Any, faulty: set[int], error: BaseException | None = None) -> None:
        self.inner, self.card, self.versions = inner, inner.card, inner.versions
        self.faulty, self.error, self.num_calls = faulty, error, 0

    def __call__(self, tiles: Any) -> Any:
        self.num_calls += 1
        if self.num_calls not in self.faulty:
            return self.inner(tiles)
        if self.error is not None:
            raise self.error
        return self.inner(tiles) * math.nan


def spoil(actor: SlideActor, patch: pytest.MonkeyPatch, *faulty: int, error: BaseException | None = None) -> Spoilt:
    """The second encoder of the actor, spoilt."""
    first, second = actor._encoder.encoders
    spoilt = Spoilt(second, set(faulty), error)
    patch.setattr(actor._encoder, "encoders", (first, spoilt))
    return spoilt


def commits_of(actor: SlideActor, slide_id: str) -> list[str]:
    """The encoders that have committed the slide."""
    names = []
    for encoder in actor._job.encoders:
        folder = commits_prefix(encoder.feature_set.fingerprint)
        names += [encoder.card.id for entry in actor._storage.list(folder) if f"/{slide_id}/" in entry.key]
    return names


def test_each_encoder_commits_a_slide_that_is_decoded_once_and_its_row_has_a_part_for_each(
    pair: SlideActor, tmp_path: Path
) -> None:
    (row,) = rows_of(pair, slide(tmp_path, "both.tiff"))
    assert [part.status for part in (row, *row.parts)] == [Status.OK] * 3
    assert row.num_tiles == row.parts[0].num_tiles == row.parts[1].num_tiles > 0
    assert row.num_bytes == sum(part.num_bytes for part in row.parts)
    records = [CommitRecord.from_json(pair._storage.get(part.commit_key), part.slide_id) for part in row.parts]
    assert [record.feature_set for record in records] == [
        encoder.feature_set.fingerprint for encoder in pair._job.encoders
    ]
    (again,) = rows_of(pair, slide(tmp_path, "both.tiff"))
    assert [part.status for part in (again, *again.parts)] == [Status.SKIPPED] * 3


def test_a_slide_for_one_of_the_encoders_is_encoded_by_that_one_alone(pair: SlideActor, tmp_path: Path) -> None:
    task = slide(tmp_path, "second.tiff")
    (row,) = rows_of(pair, task._replace(encoders=(1,)))
    assert (row.status, row.parts) == (Status.OK, ())
    assert commits_of(pair, "second.tiff") == ["efficientnet-lite0"]
    (row,) = rows_of(pair, task)
    assert [part.status for part in row.parts] == [Status.OK, Status.SKIPPED]


@pytest.mark.fault(28)
@pytest.mark.parametrize("error", [None, RuntimeError("odd tile"), SystemExit(3)], ids=repr)
def test_an_encoder_that_fails_at_a_slide_costs_the_others_nothing(
    pair: SlideActor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException | None
) -> None:
    name = f"odd-{type(error).__name__}.tiff"
    with monkeypatch.context() as patch:
        spoil(pair, patch, 1, error=error)
        (row,) = rows_of(pair, slide(tmp_path, name))
    assert (row.status, row.reason, row.stage) == (Status.FAILED, FailureReason.BAD_FEATURES, "encode")
    assert [(part.status, part.reason) for part in row.parts] == [
        (Status.OK, None),
        (Status.FAILED, FailureReason.BAD_FEATURES),
    ]
    assert "efficientnet-lite0" in row.message
    assert commits_of(pair, name) == ["hed-texture"]
    (row,) = rows_of(pair, slide(tmp_path, name))
    assert [part.status for part in row.parts] == [Status.SKIPPED, Status.OK]


def test_an_encoder_that_fails_at_two_slides_in_a_row_ends_the_run_though_the_others_work(
    pair: SlideActor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(pair, monkeypatch, *range(1, 99), error=RuntimeError("CUDA error"))
    with pytest.raises(MhimError, match=r"encoder efficientnet-lite0 failed on two .* a\.tiff and b\.tiff"):
        rows_of(pair, slide(tmp_path, "a.tiff"), slide(tmp_path, "b.tiff"))
    monkeypatch.undo()
    assert [row.status for row in rows_of(pair, slide(tmp_path, "c.tiff"))] == [Status.OK]


def test_no_more_tiles_are_asked_for_once_all_encoders_have_failed_at_a_slide(
    pair: SlideActor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoders = tuple(Spoilt(encoder, {1}) for encoder in pair._encoder.encoders)
    monkeypatch.setattr(pair._encoder, "encoders", encoders)
    (row,) = rows_of(pair, slide(tmp_path, "neither.tiff"))
    assert [part.reason for part in row.parts] == [FailureReason.BAD_FEATURES] * 2
    assert [encoder.num_calls for encoder in encoders] == [1, 1]
    assert commits_of(pair, "neither.tiff") == []


def test_a_slide_that_cannot_be_decoded_fails_as_a_whole(pair: SlideActor, tmp_path: Path) -> None:
    (tmp_path / "broken.tiff").write_bytes(b"no slide")
    (row,) = rows_of(pair, SlideTask(SlideId("broken"), str(tmp_path / "broken.tiff")))
    assert (row.status, row.reason, row.parts) == (Status.FAILED, FailureReason.OPEN, ())


def test_a_store_that_refuses_one_encoder_s_commit_keeps_the_other_s(
    pair: SlideActor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cluster import embedding

    commit = embedding.commit

    def refuse_first(*arguments: Any) -> Any:
        monkeypatch.setattr("cluster.embedding.commit", commit)
        raise StorageError("denied")

    monkeypatch.setattr("cluster.embedding.commit", refuse_first)
    (row,) = rows_of(pair, slide(tmp_path, "denied.tiff"))
    assert [(part.status, part.reason, part.stage) for part in row.parts] == [
        (Status.FAILED, FailureReason.STORAGE, "commit"),
        (Status.OK, None, ""),
    ]
