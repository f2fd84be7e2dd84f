"""How the tests of a model's life wait: as long as something moves."""

import itertools
import time
from collections.abc import Callable

import pytest


def test_a_slow_machine_is_waited_for_as_long_as_it_gets_on(wait_while_moving: Callable[..., None]) -> None:
    start_s = time.monotonic()
    steps = itertools.count()
    wait_while_moving(lambda: time.monotonic() - start_s > 1, lambda: next(steps), "the end", silence_s=0.3)


def test_what_stands_still_fails_and_so_does_what_moves_without_an_end(wait_while_moving: Callable[..., None]) -> None:
    with pytest.raises(AssertionError, match=r"nothing has moved for 0\.2 s \(7\): the end"):
        wait_while_moving(lambda: False, lambda: 7, "the end", silence_s=0.2)
    steps = itertools.count()
    with pytest.raises(AssertionError, match=r"in vain for 0\.3 s"):
        wait_while_moving(lambda: False, lambda: next(steps), "the end", limit_s=0.3)


def test_what_does_not_answer_yet_is_asked_again_until_it_is_silent_for_too_long(
    wait_while_moving: Callable[..., None],
) -> None:
    answers = iter([OSError("refused"), OSError("refused"), True])

    def condition() -> object:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    wait_while_moving(condition, lambda: 0, "the end")
    assert next(answers, None) is None
    with pytest.raises(AssertionError, match="nothing has moved"):
        wait_while_moving(lambda: False, _refused, "the end", silence_s=0.2)


def _refused() -> None:
    raise ConnectionRefusedError
