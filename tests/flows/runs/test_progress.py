"""What a person is told of the time left: nothing before it is known, then what slides of that size take."""

import pytest

from flows.runs.progress import SlideProgress
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
