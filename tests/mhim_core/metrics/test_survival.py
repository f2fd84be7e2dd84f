"""Concordance against lifelines and slow references, censoring weights, the log-rank test, intervals."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mhim_core import metrics
from mhim_core.metrics import UndefinedMetricError

SEEDS = st.integers(0, 10_000)


def cohort(seed: int, num: int = 40, decimals: int = 0):
    """Times, events and risks with many ties."""
    generator = np.random.default_rng(seed)
    times = np.round(generator.exponential(6, num), decimals) + 1
    events = generator.random(num) < 0.6
    events[0] = True
    risks = np.round(-times / 4 + generator.normal(size=num), 1)
    return times, events, risks


def slow_concordance(times, events, risks, weights):
    """Every pair, one by one. `weights` (N,) of the event."""
    won = compared = 0.0
    for i in range(len(times)):
        for j in range(len(times)):
            later = times[j] > times[i] or (times[j] == times[i] and not events[j])
            if events[i] and later:
                compared += weights[i]
                won += weights[i] * (1.0 if risks[j] < risks[i] else 0.5 if risks[j] == risks[i] else 0.0)
    return won / compared if compared else None


def slow_uncensored(train_times, train_events, at):
    """Kaplan-Meier of the censoring, factor by factor: at a tie the events have left before the censorings."""
    curve = 1.0
    for moment in sorted(set(train_times)):
        if moment > at:
            break
        censored = np.sum((train_times == moment) & ~train_events)
        at_risk = np.sum(train_times > moment) + censored
        if censored:
            curve *= 1 - censored / at_risk
    return curve


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, num=st.integers(2, 60))
def test_harrell_equals_lifelines_with_ties_in_times_and_risks(seed, num):
    from lifelines.utils import concordance_index

    times, events, risks = cohort(seed, num)
    try:
        expected = concordance_index(times, -risks, events)
    except ZeroDivisionError:
        with pytest.raises(UndefinedMetricError, match="can be compared"):
            metrics.harrell_c(times, events, risks)
    else:
        assert metrics.harrell_c(times, events, risks) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, tau=st.sampled_from([2.0, 4.0, 8.0]))
def test_uno_equals_the_slow_weighted_pairs(seed, tau):
    train_times, train_events, _ = cohort(seed + 1, 80)
    times, events, risks = cohort(seed, 30)
    tau = min(tau, metrics.last_followed(train_times))
    counted = events & (times < tau)
    weights = np.array(
        [
            slow_uncensored(train_times, train_events, moment) ** -2 if is_counted else 0.0
            for moment, is_counted in zip(times, counted, strict=True)
        ]
    )
    expected = slow_concordance(times, counted, risks, weights)
    # who has an event later than tau is no event here, but still somebody with a later time
    if expected is not None:
        concordance = metrics.uno_c(train_times, train_events, times, events, risks, tau=tau)
        assert concordance == pytest.approx(expected, abs=1e-9)


def test_uno_is_harrell_where_nobody_was_censored_in_training():
    times, events, risks = cohort(4)
    train_times = np.append(times, 1000.0)
    assert metrics.uno_c(train_times, np.ones(len(train_times)), times, events, risks) == pytest.approx(
        metrics.harrell_c(times, events, risks)
    )


def test_uno_by_hand():
    # training: one of four censored at 2, so G = 1 before and (3 − 1)/3 from then on
    concordance = metrics.uno_c([1, 2, 3, 4], [1, 0, 1, 1], [1.0, 3.0, 4.0], [1, 1, 1], [0.1, 0.9, 0.5])
    # the event at 1 (weight 1) is beaten by both; the event at 3 (weight 9/4) beats the one at 4
    assert concordance == pytest.approx((9 / 4) / (2 + 9 / 4))


def test_events_after_the_last_training_patient_make_uno_undefined_until_tau_is_set():
    train = ([1.0, 2.0, 5.0], [1, 0, 1])
    test = ([1.0, 6.0, 7.0], [1, 1, 0], [0.9, 0.5, 0.1])
    with pytest.raises(UndefinedMetricError, match=r"1 events lie at 6 or later.*the last to 5.*set tau"):
        metrics.uno_c(*train, *test)
    assert metrics.uno_c(*train, *test, tau=metrics.last_followed(train[0])) == 1.0
    with pytest.raises(UndefinedMetricError, match="no training patients"):
        metrics.uno_c([], [], *test)


def test_a_perfect_risk_gives_one_its_opposite_zero_and_a_constant_a_half():
    times, events, _ = cohort(3, decimals=6)
    assert metrics.harrell_c(times, events, -times) == 1.0
    assert metrics.harrell_c(times, events, times) == 0.0
    assert metrics.harrell_c(times, events, np.zeros(len(times))) == 0.5


def test_two_events_at_one_time_are_no_pair_and_a_censoring_at_an_event_is_later():
    with pytest.raises(UndefinedMetricError):
        metrics.harrell_c([2, 2], [1, 1], [0, 1])
    assert metrics.harrell_c([2, 2], [1, 0], [1, 0]) == 1.0


def test_without_an_event_there_is_no_concordance():
    with pytest.raises(UndefinedMetricError, match="no event was seen among 2 patients"):
        metrics.harrell_c([1, 2], [False, False], [0.1, 0.2])
    with pytest.raises(UndefinedMetricError, match="no patients"):
        metrics.harrell_c([], [], [])


@pytest.mark.parametrize(
    ("times", "events", "risks", "message"),
    [
        ([1, np.nan], [1, 0], [0, 1], "time holds NaN"),
        ([1, -1], [1, 0], [0, 1], "negative"),
        ([1, 2], [1, 2], [0, 1], "event must hold"),
        ([1, 2], [1, 0], [0, np.inf], "risk holds"),
        ([1, 2], [1, 0, 1], [0, 1], "event has shape"),
        ([[1], [2]], [1, 0], [0, 1], "time has shape"),
        (3.0, True, 1.0, "time has shape"),
    ],
)
def test_wrong_input_is_refused(times, events, risks, message):
    with pytest.raises(ValueError, match=message):
        metrics.harrell_c(times, events, risks)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_a_replicate_equals_the_metric_of_the_repeated_patients(seed):
    times, events, risks = cohort(seed, 25)
    weights = metrics.censoring_weights(*cohort(seed + 1, 60)[:2], times, events, tau=3.0)
    bound = metrics.bind_survival(times, events, risks, weights)
    drawn = np.concatenate(list(metrics.replicate_weights([str(i) for i in range(25)], 10, seed)))
    for name, event_weights in (("harrell_c", np.ones(25)), ("uno_c", weights)):
        for value, counts in zip(bound[name].kernel(drawn), drawn.astype(int), strict=True):
            repeated = [array.repeat(counts) for array in (times, events, risks, event_weights)]
            expected = slow_concordance(repeated[0], repeated[1] & (repeated[3] > 0), repeated[2], repeated[3])
            if expected is None:
                assert np.isnan(value)
            elif name == "harrell_c":
                assert value == pytest.approx(slow_concordance(*repeated), abs=1e-12)


def test_many_patients_are_compared_block_by_block(monkeypatch):
    times, events, risks = cohort(8, 50)
    expected = metrics.harrell_c(times, events, risks)
    monkeypatch.setattr("mhim_core.metrics.weighted_survival._MAX_PAIRS", 60)
    assert metrics.harrell_c(times, events, risks) == pytest.approx(expected, abs=1e-12)


def test_intervals_come_with_reasons_for_nulls():
    times, events, risks = cohort(5, 60)
    patients = [str(index) for index in range(60)]
    estimates = metrics.evaluate_survival(times, events, risks, patients, replicates=200)
    assert estimates["harrell_c"].low < metrics.harrell_c(times, events, risks) < estimates["harrell_c"].high
    assert estimates["uno_c"] == (None, None, None, 0, "no training patients were given")
    weights = metrics.censoring_weights(times, events, times, events, tau=4.0)
    assert metrics.evaluate_survival(times, events, risks, patients, censoring=weights, replicates=50)["uno_c"].low


def test_two_thousand_replicates_of_a_thousand_patients_take_seconds():
    times, events, risks = cohort(2, 1000, decimals=4)
    start = time.process_time()
    metrics.evaluate_survival(times, events, risks, [str(index) for index in range(1000)])
    assert time.process_time() - start < 5.0  # 0.2 s alone


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_the_log_rank_test_equals_its_definition(seed):
    """Observed minus expected events in group 1, over the hypergeometric variance."""
    times, events, _ = cohort(seed, 50)
    group = np.random.default_rng(seed).random(50) < 0.5
    surplus = variance = 0.0
    for moment in np.unique(times[events]):
        at_risk = times >= moment
        n, n1 = at_risk.sum(), (at_risk & group).sum()
        died = events & (times == moment)
        d = died.sum()
        surplus += (died & group).sum() - d * n1 / n
        if n > 1:
            variance += d * (n1 / n) * (1 - n1 / n) * (n - d) / (n - 1)
    test = metrics.log_rank(times, events, group)
    assert test.statistic == pytest.approx(surplus**2 / variance, rel=1e-9)
    assert test.degrees_of_freedom == 1
    from scipy.stats import chi2

    assert test.p == pytest.approx(chi2.sf(test.statistic, 1), rel=1e-9)


def test_the_log_rank_test_takes_any_labels_and_more_than_two_groups():
    times, events, _ = cohort(1, 60)
    group = np.array(["low", "middle", "high"] * 20)
    assert metrics.log_rank(times, events, group).degrees_of_freedom == 2
    assert metrics.log_rank(times, events, group == "low") == metrics.log_rank(times, events, group != "low")


@pytest.mark.parametrize(
    ("times", "events", "group", "message"),
    [
        ([1, 2], [1, 1], [0, 0], "two groups"),
        ([1, 2], [0, 0], [0, 1], "no event"),
        ([1, 2, 3], [0, 1, 1], [0, 1, 1], "at no event"),
        ([2, 2], [1, 1], [0, 1], "two groups at risk"),
    ],
)
def test_a_log_rank_test_without_information_is_undefined(times, events, group, message):
    with pytest.raises(UndefinedMetricError, match=message):
        metrics.log_rank(times, events, group)
