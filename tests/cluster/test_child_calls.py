"""Calls in a child: what hangs or dies there costs one call."""

import math
import os
import time
from collections.abc import Iterator

import pytest

from cluster.child_calls import call_in_child, end_child

pytestmark = pytest.mark.usefixtures("_ended")


@pytest.fixture
def _ended() -> Iterator[None]:
    yield
    end_child()


def test_a_call_that_hangs_or_dies_ends_and_the_next_one_works() -> None:
    child = call_in_child(os.getpid, timeout_s=60)
    assert child != os.getpid()
    assert call_in_child(os.getpid, timeout_s=60) == child
    with pytest.raises(TimeoutError):
        call_in_child(time.sleep, 600, timeout_s=0.5)
    with pytest.raises(ConnectionError):
        call_in_child(os._exit, 3, timeout_s=60)
    assert call_in_child(math.sqrt, 4.0, timeout_s=60) == 2.0


def test_errors_come_back() -> None:
    with pytest.raises(ValueError, match=r"negative|domain"):
        call_in_child(math.sqrt, -1.0, timeout_s=60)
