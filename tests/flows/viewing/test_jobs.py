"""What a page waits for is done once, and a slow slide holds up no other."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from flows.viewing.jobs import Jobs, SlowError


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    made = Jobs(answer_within_s=0.2)
    yield made
    made.close()


def test_the_same_question_is_worked_on_once_and_answered_when_it_is_done(jobs: Jobs) -> None:
    done, calls = threading.Event(), []

    def job() -> str:
        calls.append(1)
        done.wait(10)
        return "answer"

    for _ in range(3):
        with pytest.raises(SlowError):
            asyncio.run(jobs.answer("question", job))
    done.set()
    assert asyncio.run(jobs.answer("question", job)) == "answer"
    assert asyncio.run(jobs.answer("question", job)) == "answer"
    assert len(calls) == 1


def test_errors_are_not_kept(jobs: Jobs) -> None:
    answers = iter([ValueError("no"), None])

    def job() -> str:
        if (error := next(answers)) is not None:
            raise error
        return "yes"

    with pytest.raises(ValueError, match="no"):
        asyncio.run(jobs.answer("question", job))
    assert asyncio.run(jobs.answer("question", job)) == "yes"


def test_a_timeout_of_the_job_itself_is_not_taken_for_slowness(jobs: Jobs) -> None:
    def job() -> str:
        raise TimeoutError("of the store")

    with pytest.raises(TimeoutError, match="of the store"):
        asyncio.run(jobs.once(job))


def test_jobs_of_one_lane_leave_threads_to_others_and_the_newest_goes_first(jobs: Jobs) -> None:
    done, begun = threading.Event(), []

    def wait(number: int) -> int:
        begun.append(number)
        done.wait(10)
        return number

    async def ask() -> None:
        questions = [asyncio.create_task(jobs.answer(n, lambda n=n: wait(n), "slow slide")) for n in range(40)]
        await asyncio.sleep(0.05)
        assert await jobs.once(lambda: "at once", "another slide") == "at once"
        done.set()
        await asyncio.gather(*questions, return_exceptions=True)

    asyncio.run(ask())
    for n in range(40):
        assert asyncio.run(jobs.answer(n, lambda: -1, "slow slide")) == n
    assert sorted(begun[:2]) == [0, 1]
    assert begun[2] == 39
