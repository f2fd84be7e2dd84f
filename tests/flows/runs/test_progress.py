"""What a person is told of the time left: nothing before it is known, then what slides of that size take."""

import io
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from cluster.watchdog import Replaced, Worker
from flows.embed import _tell_replaced
from flows.runs.bag_caching import print_reads
from flows.runs.progress import FitProgress, SlideProgress
from flows.runs.storage_retries import Repeated, retries_told
from mhim_core.bags import BagReads
from mhim_core.train.events import FitEvent, FitEventKind
from mhim_core.types import SlideId, Status, StatusRow

START_UP_S = 20.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """[now], seconds."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_start_up_and_giants_that_come_first_do_not_spoil_the_time_left(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    """Four slides of 100 s, then a hundred of 1 s, on one actor."""
    sizes = {SlideId(f"s{number}"): 100.0 if number < 4 else 1.0 for number in range(104)}
    clock[0] = 0.0
    with SlideProgress(sizes, 1) as progress:
        clock[0] = START_UP_S
        for number, (slide_id, size) in enumerate(sizes.items()):
            clock[0] += size
            progress.update(StatusRow(slide_id, Status.OK, num_tiles=10, seconds=size))
            shown = [line for line in lines(capsys) if "left, about" in line or "tiles/s, about" in line]
            if number < 2:
                assert not shown
            if number == 2:
                (line,) = shown
                assert "about 3 min 20 s left" in line  # not 100 min: 101 slides of those 107 s that one took so far


def test_the_end_says_how_long_it_took_and_nothing_of_what_is_left(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with SlideProgress({SlideId("a"): 1.0}, 1) as progress:
        clock[0] = 6.0
        progress.update(StatusRow(SlideId("a"), Status.OK, seconds=6.0))
    assert "about" not in capsys.readouterr().err


@pytest.mark.fault(7)
def test_requests_that_workers_had_to_repeat_are_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = [5]  # by an earlier command in the same process
    monkeypatch.setattr("flows.runs.storage_retries.process_retries", lambda: counted[0])
    told: list[Any] = []
    epoch = SimpleNamespace(kind="warning", fit="fit", record=None, message="a")

    def work(tell: Callable[[Any], None]) -> None:
        tell(epoch)
        counted[0] = 8
        tell(epoch)
        counted[0] = 9
        raise ValueError("rank 1")

    with pytest.raises(ValueError, match="rank 1"), retries_told(told.append) as tell:
        work(tell)
    assert told == [epoch, epoch, Repeated(3), Repeated(1)]
    progress = FitProgress(1)
    for event in told:
        progress.update(event)
    assert progress.num_repeated == 4


@pytest.mark.fault(43)
def test_an_encoder_that_is_replaced_is_told_with_the_key_its_value_and_what_was_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    worker = Worker("node", 1, "0")
    _tell_replaced(5.0, Replaced(worker, SlideId("s1"), 61.0, 4.25))
    _tell_replaced(5.0, Replaced(worker, SlideId("s1"), 61.0, 0.0))
    _tell_replaced(5.0, Replaced(worker, None, 312.0, 0.0))
    slow, unmeasured, loading = lines(capsys)
    for line, said in ((slow, "took 4.2 s"), (unmeasured, "no batch"), (loading, "312 s")):
        assert "encode_timeout_s=5" in line
        assert said in line


def test_what_workers_have_read_is_added_up_and_what_they_all_say_is_said_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    progress = FitProgress(1)
    for reads in (BagReads(memory=3, memory_bytes=2**30), BagReads(store=1, memory_bytes=2**29)):
        progress.update(FitEvent(FitEventKind.warning, "cache", "the disk is full"))
        progress.update(reads)
    assert progress.reads == BagReads(memory=3, store=1, memory_bytes=3 * 2**29)
    print_reads(progress.reads)
    print_reads(BagReads())
    captured = capsys.readouterr()
    assert captured.err.count("the disk is full") == 1
    (line,) = captured.out.splitlines()
    assert {"4", "3", "1", "1.50"} <= set(line.replace(":", "").split())


def test_the_slide_that_took_longest_is_named_at_the_end(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with SlideProgress({SlideId(name): 1.0 for name in "abc"}, 1) as progress:
        for name, seconds in (("a", 2.0), ("b", 75.0), ("c", 3.0)):
            clock[0] += seconds
            progress.update(StatusRow(SlideId(name), Status.OK, seconds=seconds))
    assert lines(capsys)[-1].endswith("slowest b with 1 min 15 s")


def _epoch(number: int, seconds: float) -> FitEvent:
    record = SimpleNamespace(
        epoch=number, task_loss=0.5, consistency_loss=0.0, validation_loss=0.4, validation_metric=0.75
    )
    kind: Any = FitEventKind.epoch
    return FitEvent(kind, "fold-0/plain", num_epochs=10, record=record, metric_name="auroc", seconds=seconds)  # type: ignore[arg-type]


def test_an_epochs_line_tells_how_long_all_fits_will_last(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with FitProgress(3) as progress:
        for number, seconds in ((1, 30.0), (2, 2.0), (3, 2.0)):
            clock[0] += seconds
            progress.update(_epoch(number, seconds))
        clock[0] += 2.0
        progress.update(FitEvent(FitEventKind.finished, "fold-0/plain"))
        clock[0] += 2.0
        progress.update(_epoch(1, 2.0)._replace(fit="fold-1/plain"))
    told = lines(capsys)
    assert "about 54 s left" in told[2], "7 epochs of this fit and 20 of two others, the slow start left out"
    assert "1/3 fits" in told[3]
    assert "about 38 s left" in told[4]


def test_a_students_epochs_are_not_measured_by_those_of_the_plain_aggregator(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with FitProgress(2) as progress:
        for number in (1, 2, 3):
            clock[0] += 2.0
            progress.update(_epoch(number, 2.0))
        progress.update(FitEvent(FitEventKind.finished, "fold-0/plain"))
        clock[0] += 20.0
        progress.update(_epoch(1, 20.0)._replace(fit="fold-0/mhim"))
    assert "about 3 min 0 s left" in lines(capsys)[-1]


def test_on_a_terminal_epochs_move_a_bar_and_finished_fits_leave_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()

    def console(**_: object) -> Console:
        return Console(file=written, force_terminal=True, width=200, highlight=False, markup=False)

    monkeypatch.setattr("flows.runs.progress.Console", console)
    with FitProgress(2) as progress:
        progress.update(FitEvent(FitEventKind.finished, "fold-0/plain"))
        progress.update(_epoch(4, 2.0))  # the bar as it stands at the end
    shown = written.getvalue()
    assert "epoch 4/10" in shown
    assert "about 12 s left" in shown
    assert "fold-0/plain: finished (1/2 fits)" in shown
