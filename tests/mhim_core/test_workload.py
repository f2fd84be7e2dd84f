"""The order and the estimate, held against simulated workers."""

import heapq
import random
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from statistics import median
from typing import NamedTuple

import pytest

from mhim_core.workload import TimeLeft, spread_order

Order = Callable[[Sequence[float]], list[int]]


def largest_first(sizes: Sequence[float]) -> list[int]:
    return sorted(range(len(sizes)), key=lambda index: -sizes[index])


def smallest_first(sizes: Sequence[float]) -> list[int]:
    return sorted(range(len(sizes)), key=lambda index: sizes[index])


class Ended(NamedTuple):
    at_s: float
    job: int
    seconds: float


def simulate(seconds: Sequence[float], order: list[int], num_workers: int, at_once: int, start_s: float) -> list[Ended]:
    """Workers that take `at_once` jobs of the queue each, in order of their end; they are ready after `start_s`."""
    free = [start_s] * num_workers
    ended = []
    for first in range(0, len(order), at_once):
        now_s = heapq.heappop(free)
        for job in order[first : first + at_once]:
            now_s += seconds[job]
            ended.append(Ended(now_s, job, seconds[job]))
        heapq.heappush(free, now_s)
    return sorted(ended)


class Cohort(NamedTuple):
    """Slides whose seconds follow their bytes only roughly."""

    sizes: list[float]
    seconds: list[float]


def cohorts(num_slides: int, sigma: float = 1.0) -> Iterator[Cohort]:
    for seed in range(20):
        draws = random.Random(seed)
        sizes = [1e6 + 1e8 * draws.lognormvariate(0, sigma) for _ in range(num_slides)]
        yield Cohort(sizes, [0.5 + size / 1e8 * 10 * draws.lognormvariate(0, 0.3) for size in sizes])


class Quality(NamedTuple):
    """Medians over the cohorts."""

    makespan: float
    """Over the bound max(Σ seconds / workers, longest), which no order beats."""
    done_at_half: float


def quality(order: Order, num_slides: int, num_workers: int, at_once: int) -> Quality:
    makespans, shares = [], []
    for cohort in cohorts(num_slides):
        ended = simulate(cohort.seconds, order(cohort.sizes), num_workers, at_once, 0.0)
        makespans.append(ended[-1].at_s / max(sum(cohort.seconds) / num_workers, max(cohort.seconds)))
        shares.append(sum(end.at_s <= ended[-1].at_s / 2 for end in ended) / num_slides)
    return Quality(median(makespans), median(shares))


def test_every_job_is_handed_out_once() -> None:
    for num in (0, 1, 2, 7, 100):
        assert sorted(spread_order([float(index % 5) for index in range(num)])) == list(range(num))


@pytest.mark.parametrize(("num_slides", "num_workers"), [(24, 2), (100, 2), (400, 8), (400, 32), (1000, 64)])
def test_the_end_stays_short_and_half_the_time_does_nearly_half_of_the_slides(
    num_slides: int, num_workers: int
) -> None:
    at_once = max(1, min(4, num_slides // (2 * num_workers)))  # as the flow hands them out
    ours = quality(spread_order, num_slides, num_workers, at_once)
    assert ours.makespan < 1.3
    assert ours.done_at_half > 0.4
    assert ours.makespan < quality(smallest_first, num_slides, num_workers, at_once).makespan


def test_several_jobs_at_once_are_not_several_giants() -> None:
    ours, before = quality(spread_order, 400, 32, 4), quality(largest_first, 400, 32, 4)
    assert before.makespan > 1.5
    assert ours.makespan < 1.3


def test_a_run_that_is_cut_off_has_done_more_than_twice_as_many_slides() -> None:
    assert quality(spread_order, 100, 2, 1).done_at_half > 2 * quality(largest_first, 100, 2, 1).done_at_half


def estimates(cohort: Cohort, num_workers: int, order: Order) -> Iterator[tuple[float, float | None]]:
    """True and estimated seconds left at each end of a slide, up to nine tenths of the run."""
    ended = simulate(cohort.seconds, order(cohort.sizes), num_workers, 1, start_s=15.0)
    left = TimeLeft({str(index): size for index, size in enumerate(cohort.sizes)}, num_workers)
    for end in ended[: -len(ended) // 10]:
        left.done(str(end.job), end.seconds, end.at_s)
        yield ended[-1].at_s - end.at_s, left.seconds(end.at_s)


@pytest.mark.parametrize(("num_slides", "num_workers"), [(24, 2), (100, 2), (400, 8)])
@pytest.mark.parametrize("order", [spread_order, largest_first])
def test_the_time_left_is_right_within_a_factor_of_two_from_the_first_time_it_is_told(
    num_slides: int, num_workers: int, order: Order
) -> None:
    first, typical = [], []
    for cohort in cohorts(num_slides):
        estimated = [(true, guess) for true, guess in estimates(cohort, num_workers, order) if guess is not None]
        assert len(estimated) > num_slides // 2
        wrong = [max(true / guess, guess / true) for true, guess in estimated]
        first.append(wrong[0])
        typical.append(median(wrong))
    assert median(first) < 1.3
    assert max(first) < 2.2
    assert median(typical) < 1.25


def test_nothing_is_said_before_every_worker_has_ended_a_job() -> None:
    left = TimeLeft(dict.fromkeys("abcdefgh", 1.0), 4)
    for number, job in enumerate("abcd"):
        assert left.seconds(10.0 + number) is None
        left.done(job, 2.0, 10.0 + number)
    assert left.seconds(14.0) is not None


def test_what_took_no_time_tells_nothing() -> None:
    left = TimeLeft(dict.fromkeys("abcdef", 1.0), 1)
    for job in "abcd":
        left.done(job, 0.0, 1.0)
    assert left.seconds(1.0) is None


def test_the_time_left_falls_as_work_goes_on_and_ends_at_none() -> None:
    left = TimeLeft(dict.fromkeys("abcdef", 1.0), 1)
    seen = []
    for number, job in enumerate("abcdef", start=1):
        left.done(job, 2.0, 20.0 + 2.0 * number)
        seen.append(left.seconds(20.0 + 2.0 * number))
    known = [value for value in seen if value is not None]
    assert known == [6.0, 4.0, 2.0, 0.0]
    assert all(later < earlier for earlier, later in pairwise(known))


def test_a_size_that_is_not_known_is_taken_for_the_mean() -> None:
    left = TimeLeft({"a": 1.0, "b": 2.0, "c": 3.0, "d": 0.0}, 1)
    for end_s, (job, seconds) in enumerate((("a", 1.0), ("b", 2.0), ("c", 3.0))):
        left.done(job, seconds, 1.0 + end_s * 2.5)
    assert left.seconds(6.0) == 2.0


def test_workers_that_joined_are_counted() -> None:
    left = TimeLeft(dict.fromkeys("abcdefgh", 1.0), 1)
    for job in "abcd":
        left.done(job, 10.0, 10.0)
    assert left.seconds(10.0) == 10.0


def test_a_kind_of_job_is_reckoned_at_its_own_rate_once_three_of_it_are_done() -> None:
    """A .png byte costs ten times what an .svs byte does; the .png come last."""
    jobs = [f"svs{number}" for number in range(6)] + [f"png{number}" for number in range(6)]
    kinds = {job: job[:3] for job in jobs}
    by_kind, by_size = TimeLeft(dict.fromkeys(jobs, 1.0), 1, kinds), TimeLeft(dict.fromkeys(jobs, 1.0), 1)
    now_s, guesses = 0.0, []
    for job in jobs[:10]:
        seconds = 1.0 if kinds[job] == "svs" else 10.0
        now_s += seconds
        for left in (by_kind, by_size):
            left.done(job, seconds, now_s)
        guesses.append((by_kind.seconds(now_s), by_size.seconds(now_s)))
    assert guesses[5] == (6.0, 6.0), "nothing is known of .png yet"
    assert guesses[7] == (pytest.approx(4 * 26 / 8), pytest.approx(4 * 26 / 8)), "two of them are chance"
    assert guesses[8] == (30.0, pytest.approx(3 * 36 / 9))
    assert guesses[9][0] == 20.0


def test_a_mixed_cohort_is_estimated_better_by_kind() -> None:
    """Two formats whose bytes cost 1 and 8, in the order in which they are handed out."""
    wrong: dict[bool, list[float]] = {True: [], False: []}
    for seed, cohort in enumerate(cohorts(100)):
        kinds = [random.Random(f"{seed}-{index}").choice(("svs", "tif")) for index in range(100)]
        seconds = [value * (8 if kind == "tif" else 1) for value, kind in zip(cohort.seconds, kinds, strict=True)]
        ended = simulate(seconds, spread_order(cohort.sizes), 2, 1, start_s=15.0)
        for is_by_kind in wrong:
            left = TimeLeft(
                {str(index): size for index, size in enumerate(cohort.sizes)},
                2,
                {str(index): kind for index, kind in enumerate(kinds)} if is_by_kind else None,
            )
            factors = []
            for end in ended[:90]:
                left.done(str(end.job), end.seconds, end.at_s)
                if (guess := left.seconds(end.at_s)) is not None:
                    true = ended[-1].at_s - end.at_s
                    factors.append(max(true / guess, guess / true))
            wrong[is_by_kind].append(median(factors))
    assert median(wrong[True]) < 1.15 < median(wrong[False])
