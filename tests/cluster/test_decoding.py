"""A child that crashes, hangs or lies costs one slide at most, and nobody waits for ever."""

import contextlib
import inspect
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import decoding
from cluster.decoding import AHEAD, AHEAD_BYTES, Decoder, JobStream, RetrySlide
from cluster.shared_slots import SharedSlots, SlotWriter, Span
from mhim_core import errors
from mhim_core.errors import MachineError, MhimError, SlideError
from mhim_core.types import FailureReason

TOYS = Path(__file__).parent


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(TOYS))  # a spawned child gets our sys.path
    import toy_decoders

    return toy_decoders


@pytest.fixture
def make_decoder(toys: Any) -> Iterator[Callable[..., Decoder[Any]]]:
    made: list[Decoder[Any]] = []

    def make(timeout_s: float = 30.0) -> Decoder[Any]:
        made.append(Decoder(toys.decode, timeout_s))
        return made[-1]

    yield make
    for decoder in made:
        decoder.close()


def taken(stream: JobStream) -> list[Any]:
    """A job's items as a patient consumer takes them."""
    while True:
        try:
            return list(stream)
        except RetrySlide:
            continue


def indices(items: list[Any]) -> list[int]:
    return [item[0] for item in items]


def is_running(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False


def wait_until(condition: Callable[[], bool], limit_s: float = 10.0) -> bool:
    deadline_s = time.monotonic() + limit_s
    while not condition() and time.monotonic() < deadline_s:
        time.sleep(0.02)
    return condition()


def test_items_come_in_order_from_one_child_for_all_calls(toys: Any, make_decoder: Callable[..., Decoder[Any]]) -> None:
    decoder = make_decoder()
    batches = [taken(stream) for _ in range(2) for stream in decoder.streams([toys.Job(3), toys.Job(0), toys.Job(40)])]
    assert [indices(items) for items in batches] == [[0, 1, 2], [], list(range(40))] * 2
    assert len({item[1] for items in batches for item in items}) == 1


@pytest.mark.fault(7)
def test_what_a_child_counts_comes_home_by_job_also_from_one_that_failed_or_died(toys: Any, tmp_path: Path) -> None:
    """Items stand in for repeated requests."""
    jobs = [toys.Job(3), toys.Job(2, "refuse"), toys.Job(4, "crash", str(tmp_path / "times"), 1), toys.Job(0)]
    with contextlib.closing(Decoder(toys.decode, 30.0, count_retries=toys.count_items)) as decoder:
        counts = []
        for stream in decoder.streams(jobs):
            with contextlib.suppress(SlideError):
                taken(stream)
            counts.append(stream.retries)
    assert counts == [3, 2, 4 + 4, 0]


def test_the_child_decodes_ahead_into_the_next_job_but_no_further_than_the_bound(
    toys: Any, make_decoder: Callable[..., Decoder[Any]], tmp_path: Path
) -> None:
    counters = [tmp_path / "first", tmp_path / "second"]
    jobs = [toys.Job(num, counter=str(path), num_bytes=2**20) for num, path in zip((2, 100), counters, strict=True)]
    streams = make_decoder().streams(jobs)
    items = iter(next(streams))
    next(items)
    assert wait_until(counters[1].exists)
    time.sleep(0.5)
    # waiting in the queue, in the pump's hand, in the pipe; the end of the first job is a message too
    assert counters[1].stat().st_size <= AHEAD + 2
    assert len(list(items)) == 1
    assert indices(taken(next(streams))) == list(range(100))
    assert list(streams) == []


def test_what_is_decoded_ahead_is_bounded_by_bytes_too(
    toys: Any, make_decoder: Callable[..., Decoder[Any]], tmp_path: Path
) -> None:
    counter, num_bytes = tmp_path / "counter", AHEAD_BYTES // 2
    streams = make_decoder().streams([toys.Job(12, counter=str(counter), num_bytes=num_bytes)])
    items = iter(next(streams))
    next(items)
    assert wait_until(lambda: counter.stat().st_size >= 4)
    time.sleep(1.0)
    assert counter.stat().st_size <= 1 + 2 + 2  # taken, in the queue, and as above in the pump's hand and the pipe
    assert len(list(items)) == 11
    assert list(streams) == []


def only(decoder: Decoder[Any], job: Any) -> list[Any]:
    """The items of one job."""
    return [item for stream in decoder.streams([job]) for item in taken(stream)]


def check_arrays(items: list[Any], num_bytes: int) -> None:
    for index, _, array in items:
        assert array.shape == (num_bytes,)
        assert (array == index % 251).all(), index


def num_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_arrays_of_a_hundred_items_share_eight_slots_and_stay_as_they_came(
    toys: Any, make_decoder: Callable[..., Decoder[Any]]
) -> None:
    decoder = make_decoder()
    kept = []
    for stream in decoder.streams([toys.Job(100, array_bytes=2**20)]):
        for item in stream:
            check_arrays([item], 2**20)
            if item[0] % 30 == 0:
                kept.append(item)
            del item
    check_arrays(kept, 2**20)
    slots = decoder._children[0]._slots
    assert slots is not None
    granted = len(decoder._children[0]._granted)
    assert granted + len(slots.take_all()) == AHEAD - len(kept)
    del kept
    assert len(slots.take_all()) == 4


def test_whoever_keeps_all_arrays_gets_the_others_through_the_pipe(
    toys: Any, make_decoder: Callable[..., Decoder[Any]]
) -> None:
    items = only(make_decoder(), toys.Job(40, array_bytes=2**20))
    assert indices(items) == list(range(40))
    check_arrays(items, 2**20)


def test_an_array_larger_than_a_slot_and_a_small_one_come_through_the_pipe(
    toys: Any, make_decoder: Callable[..., Decoder[Any]]
) -> None:
    sizes = (AHEAD_BYTES // AHEAD + 1, 100)
    for size, stream in zip(
        sizes, make_decoder().streams([toys.Job(3, array_bytes=size) for size in sizes]), strict=True
    ):
        check_arrays(taken(stream), size)


def test_without_shared_memory_all_comes_through_the_pipe(
    toys: Any, make_decoder: Callable[..., Decoder[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "memfd_create", refused)
    decoder = make_decoder()
    items = only(decoder, toys.Job(30, array_bytes=2**20))
    assert len(items) == 30
    check_arrays(items, 2**20)
    assert decoder._children[0]._slots is None


def test_children_that_die_leave_no_descriptor_and_no_named_memory_and_their_arrays_stay(
    toys: Any, make_decoder: Callable[..., Decoder[Any]]
) -> None:
    decoder = make_decoder()
    only(decoder, toys.Job(1))
    descriptors, named = num_descriptors(), set(os.listdir("/dev/shm"))
    first = []
    for _ in range(3):
        for stream in decoder.streams([toys.Job(3, fault="crash", array_bytes=2**20)]):
            with contextlib.suppress(SlideError, RetrySlide):
                first.append(next(iter(stream)))
    assert len(first) == 3
    check_arrays(first, 2**20)
    del first  # whose memory has a descriptor as long as they lie in it
    only(decoder, toys.Job(1))
    assert num_descriptors() <= descriptors
    assert set(os.listdir("/dev/shm")) <= named


def test_whoever_asks_a_closed_decoder_again_is_told_again(
    toys: Any, make_decoder: Callable[..., Decoder[Any]]
) -> None:
    decoder = make_decoder()
    streams = decoder.streams([toys.Job(1, fault="hang"), toys.Job(1)])
    stream = next(streams)
    next(iter(stream))
    decoder.close()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="closed"):
            next(iter(stream))
    with pytest.raises(RuntimeError, match="closed"):
        next(streams)


def test_a_machine_that_starts_no_process_is_told_and_no_slide_is_blamed(
    toys: Any, make_decoder: Callable[..., Decoder[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    decoder = make_decoder()
    with monkeypatch.context() as patch:
        patch.setattr(multiprocessing.context.SpawnProcess, "start", refused)
        decoder.start()
        with pytest.raises(MachineError, match="no decoding process can be started"):
            only(decoder, toys.Job(2))
    assert indices(only(decoder, toys.Job(2))) == [0, 1]


def test_a_slot_that_cannot_be_mapped_is_gone_around_and_one_that_cannot_be_made_leaves_nothing_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slots, writer = SharedSlots(2, 4096), SlotWriter(-1, 4096)
    try:
        assert writer.write(0, [memoryview(b"x")]) is None
        assert slots.writer().write(0, [memoryview(bytes(5000))]) is None
        assert slots.writer().write(1, [memoryview(b"abc"), memoryview(b"de")]) == [(0, 3), (64, 66)]
        assert [bytes(part) for part in slots.read(1, [Span(0, 3), Span(64, 66)])] == [b"abc", b"de"]
    finally:
        slots.close()

    def refused(*_: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    before = num_descriptors()
    monkeypatch.setattr(os, "ftruncate", refused)
    with pytest.raises(OSError, match="allocate"):
        SharedSlots(2, 4096)
    assert num_descriptors() == before


def test_several_children_decode_several_jobs_at_once_whose_items_come_in_order(toys: Any, tmp_path: Path) -> None:
    met = [str(tmp_path / name) for name in ("first", "second")]
    meetings = [(met[0], met[1]), (met[1], met[0])]  # neither would begin without the other
    jobs = [*(toys.Job(20, meet=meeting, array_bytes=2**20) for meeting in meetings), toys.Job(2), toys.Job(0)]
    with contextlib.closing(Decoder(toys.decode, 30.0, num_children=2)) as decoder:
        found = [taken(stream) for stream in decoder.streams(jobs)]
        assert [indices(items) for items in found] == [list(range(20)), list(range(20)), [0, 1], []]
        assert found[0][0][1] != found[1][0][1]
        assert indices(only(decoder, toys.Job(1))) == [0]


def test_of_several_children_one_s_crash_costs_its_job_alone_and_all_end_with_the_decoder(toys: Any) -> None:
    jobs = [toys.Job(5, array_bytes=2**20), toys.Job(2, fault="crash"), toys.Job(5, array_bytes=2**20)]
    pids, results = set(), []
    with contextlib.closing(Decoder(toys.decode, 30.0, num_children=3)) as decoder:
        for stream in decoder.streams(jobs):
            try:
                items = taken(stream)
                pids |= {item[1] for item in items}
                results.append(indices(items))
            except SlideError as error:
                results.append(error.reason)
    assert results == [list(range(5)), FailureReason.DECODER_CRASH, list(range(5))]
    assert not any(is_running(pid) for pid in pids)


@pytest.mark.parametrize("times", [1, 2])
def test_a_crash_is_tried_once_more_and_then_the_slide_fails_alone(
    toys: Any, make_decoder: Callable[..., Decoder[Any]], tmp_path: Path, times: int
) -> None:
    crashing = toys.Job(fault="crash", counter=str(tmp_path / "crashes"), times=times)
    streams = make_decoder().streams([crashing, toys.Job(5)])
    first = next(streams)
    items: list[Any] = []
    with pytest.raises(RetrySlide):
        items.extend(first)
    if times == 1:
        assert indices(list(first))[:3] == [0, 1, 2]
    else:
        with pytest.raises(SlideError, match=r"process died \(exit code -11\)") as caught:
            list(first)
        assert caught.value.reason is FailureReason.DECODER_CRASH
    assert first.attempts == 2
    assert indices(taken(next(streams))) == [0, 1, 2, 3, 4]


@pytest.mark.fault(2)
def test_a_child_killed_from_outside_is_replaced_and_the_slide_starts_again(
    toys: Any, make_decoder: Callable[..., Decoder[Any]]
) -> None:
    streams = make_decoder().streams([toys.Job(100, num_bytes=2**20)])
    stream = next(streams)
    items = iter(stream)
    os.kill(next(items)[1], signal.SIGKILL)
    with pytest.raises(RetrySlide):
        list(items)
    assert indices(list(stream)) == list(range(100))


def test_a_child_that_hangs_is_killed_and_the_next_slide_works(
    toys: Any, make_decoder: Callable[..., Decoder[Any]]
) -> None:
    streams = make_decoder(timeout_s=1.5).streams([toys.Job(1, fault="hang"), toys.Job(2)])
    hanging, start_s = next(streams), time.monotonic()
    items = iter(hanging)
    pid = next(items)[1]
    with pytest.raises(SlideError, match=r"no progress for 1\.5 s") as caught:
        next(items)
    assert caught.value.reason is FailureReason.TIMEOUT
    assert time.monotonic() - start_s < 8
    assert hanging.attempts == 1
    assert not is_running(pid)
    assert indices(taken(next(streams))) == [0, 1]


def test_staging_has_a_time_limit_of_its_own_and_is_no_item(toys: Any) -> None:
    jobs = [toys.Job(2, staging_s=2.5), toys.Job(0, staging_s=0.0, fault="hang"), toys.Job(0, staging_s=600.0)]
    with contextlib.closing(Decoder(toys.decode, timeout_s=1.0, first_timeout_s=4.0)) as decoder:
        streams = decoder.streams(jobs)
        assert indices(taken(next(streams))) == [0, 1]
        for limit in ("1 s", "4 s"):
            with pytest.raises(SlideError, match=f"no progress for {limit}"):
                taken(next(streams))


def test_a_slide_s_own_error_crosses_the_process_as_it_is(toys: Any, make_decoder: Callable[..., Decoder[Any]]) -> None:
    streams = make_decoder().streams([toys.Job(fault="refuse"), toys.Job(1)])
    with pytest.raises(SlideError, match="slide x states no resolution") as caught:
        taken(next(streams))
    assert caught.value.reason is FailureReason.NO_MPP
    assert indices(taken(next(streams))) == [0]


@pytest.mark.parametrize(
    ("fault", "reason"), [("fail", "unexpected ZeroDivisionError: by naught"), ("unpicklable", "unexpected .*pickle")]
)
def test_an_unexpected_exception_is_one_slide_s_and_names_its_type(
    toys: Any, make_decoder: Callable[..., Decoder[Any]], fault: str, reason: str
) -> None:
    streams = make_decoder().streams([toys.Job(fault=fault), toys.Job(1)])
    with pytest.raises(SlideError, match=reason) as caught:
        taken(next(streams))
    assert caught.value.reason is FailureReason.READ
    assert indices(taken(next(streams))) == [0]


def test_a_job_that_cannot_be_sent_is_told_instead_of_waited_for(make_decoder: Callable[..., Decoder[Any]]) -> None:
    streams = make_decoder().streams([lambda: None])
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        taken(next(streams))


def test_what_is_left_of_a_stream_is_thrown_away_before_the_next(
    toys: Any, make_decoder: Callable[..., Decoder[Any]], tmp_path: Path
) -> None:
    crashing = toys.Job(2, fault="crash", counter=str(tmp_path / "crashes"), times=1)
    streams = make_decoder().streams([toys.Job(30), crashing, toys.Job(2, fault="refuse"), toys.Job(4)])
    begun = iter(next(streams))
    next(begun)
    left_alone = next(streams)
    next(streams)
    assert left_alone.attempts == 2
    assert indices(taken(next(streams))) == [0, 1, 2, 3]


def test_an_abandoned_call_ends_its_child_and_its_thread_and_the_next_call_works(
    toys: Any, make_decoder: Callable[..., Decoder[Any]]
) -> None:
    decoder = make_decoder()
    streams = decoder.streams([toys.Job(1000, num_bytes=2**20), toys.Job(1000)])
    pid = next(iter(next(streams)))[1]
    streams.close()  # type: ignore[attr-defined]
    assert not is_running(pid)
    assert "mhim-decoder-pump" not in {thread.name for thread in threading.enumerate()}
    assert [indices(taken(stream)) for stream in decoder.streams([toys.Job(2)])] == [[0, 1]]


@pytest.mark.parametrize("fault", ["", "hang"])
def test_close_ends_the_child_whatever_it_does(
    toys: Any, make_decoder: Callable[..., Decoder[Any]], fault: str
) -> None:
    decoder = make_decoder()
    streams = decoder.streams([toys.Job(1 if fault else 10**6, fault=fault), toys.Job(1)])  # neither ends by itself
    items = iter(next(streams))
    pid = next(items)[1]
    assert is_running(pid)
    decoder.close()
    decoder.close()
    assert not is_running(pid)
    with pytest.raises(RuntimeError, match="closed"):
        list(items)


def test_an_iterator_that_is_collected_amid_a_close_leaves_it_alone(
    toys: Any, make_decoder: Callable[..., Decoder[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = make_decoder()
    streams = decoder.streams([toys.Job(1, fault="hang"), toys.Job(1)])
    pid = next(iter(next(streams)))[1]
    kill = decoding._Child.kill

    def collecting(child: decoding._Child[Any]) -> None:
        streams.close()  # type: ignore[attr-defined]  # as the collector may, at any moment
        kill(child)

    monkeypatch.setattr(decoding._Child, "kill", collecting)
    decoder.close()
    assert not is_running(pid)
    assert "mhim-decoder-pump" not in {thread.name for thread in threading.enumerate()}


def test_an_iterator_that_is_collected_late_leaves_the_next_call_alone(
    toys: Any, make_decoder: Callable[..., Decoder[Any]]
) -> None:
    decoder = make_decoder()
    abandoned = decoder.streams([toys.Job(1000, num_bytes=2**20)])
    next(iter(next(abandoned)))
    streams = decoder.streams([toys.Job(4)])
    items = iter(next(streams))
    first = next(items)
    abandoned.close()  # type: ignore[attr-defined]
    assert indices([first, *items]) == [0, 1, 2, 3]


def test_the_child_ends_with_its_parent(toys: Any) -> None:
    program = (
        "import sys, time, toy_decoders; from cluster.decoding import Decoder\n"
        "if __name__ == '__main__':\n"
        "    decoder = Decoder(toy_decoders.decode, 60)\n"
        "    streams = decoder.streams([toy_decoders.Job(10**6, num_bytes=2**20)])\n"
        "    print(next(iter(next(streams)))[1], flush=True)\n"
        "    time.sleep(600)\n"
    )
    path = os.pathsep.join(["", str(TOYS), str(TOYS.parents[1])])
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path}
    )
    try:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert is_running(child)
    finally:
        parent.kill()
        parent.communicate()
    assert wait_until(lambda: not is_running(child))


ERRORS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, MhimError)]


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_crosses_a_process_whole(kind: type[MhimError]) -> None:
    arguments = (FailureReason.READ, "why") if issubclass(kind, SlideError) else ("why",)
    error = kind(*arguments)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert (copy.args, str(copy), vars(copy), copy.exit_code) == (error.args, str(error), vars(error), error.exit_code)
