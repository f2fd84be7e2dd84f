"""Times are those that crontab(5) and Kubernetes would take; what they read differently is refused."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.scheduling.cron import Cron
from mhim_core.errors import ConfigError

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)  # a Tuesday


def times(expression: str, number: int, *, timezone: str = "UTC", after: datetime = NOON) -> list[datetime]:
    cron, moments = Cron(expression, timezone), []
    for _ in range(number):
        after = cron.next_after(after)
        moments.append(after)
    return moments


@pytest.mark.parametrize("sunday", ["0", "7", "sun", "SUN", "0,7", "7-7"])
def test_sunday_is_sunday_however_cron_lets_it_be_written(sunday: str) -> None:
    assert times(f"0 2 * * {sunday}", 2) == [datetime(2026, 11, day, 2, tzinfo=UTC) for day in (29,)] + [
        datetime(2026, 12, 6, 2, tzinfo=UTC)
    ]


@pytest.mark.parametrize(
    ("days", "names"),
    [
        ("1-5", "Mon Tue Wed Thu Fri"),
        ("5-7", "Sun Fri Sat"),
        ("*/2", "Sun Tue Thu Sat"),
        ("mon,wed", "Mon Wed"),
        ("1-6/5", "Mon Sat"),
        ("*", "Sun Mon Tue Wed Thu Fri Sat"),
    ],
)
def test_days_of_the_week_are_counted_from_sunday(days: str, names: str) -> None:
    assert {f"{moment:%a}" for moment in times(f"0 2 * * {days}", 14)} == set(names.split())


@pytest.mark.parametrize(
    ("expression", "following"),
    [
        ("*/15 * * * *", "2026-11-24 12:15"),
        ("30 1,13 * * *", "2026-11-24 13:30"),
        ("0 0 1 * *", "2026-12-01 00:00"),
        ("0 0 1 jan *", "2027-01-01 00:00"),
        ("0 0 29 2 *", "2028-02-29 00:00"),
        ("5-7 12 * * *", "2026-11-24 12:05"),
    ],
)
def test_the_next_time_is_the_first_after_now(expression: str, following: str) -> None:
    assert f"{times(expression, 1)[0]:%Y-%m-%d %H:%M}" == following


def test_a_time_is_meant_in_its_zone() -> None:
    assert times("0 2 * * *", 1, timezone="America/New_York") == [datetime(2026, 11, 25, 7, tzinfo=UTC)]


@pytest.mark.parametrize("expression", ["30 2 * * *", "0 2,3 * * *", "15 3 * * *"])
@pytest.mark.parametrize("day", [datetime(2026, 3, 26, tzinfo=UTC), datetime(2026, 10, 22, tzinfo=UTC)])
def test_a_daily_time_comes_once_a_day_when_the_clocks_change(expression: str, day: datetime) -> None:
    berlin = ZoneInfo("Europe/Berlin")
    moments = times(expression, 8, timezone="Europe/Berlin", after=day)
    assert len(set(moments)) == 8
    clock = [moment.astimezone(berlin).replace(tzinfo=None, fold=0) for moment in moments]
    assert len(set(clock)) == 8  # none in the repeated hour once more
    assert all(later - earlier < timedelta(hours=25.1) for earlier, later in pairwise(moments))


def test_a_time_that_the_clocks_skip_comes_right_after_the_change() -> None:
    after = datetime(2026, 3, 28, 12, tzinfo=UTC)
    assert times("30 2 * * *", 1, timezone="Europe/Berlin", after=after) == [datetime(2026, 3, 29, 1, tzinfo=UTC)]


@pytest.mark.parametrize(
    ("timezone", "start"),
    [
        ("Europe/Berlin", datetime(2026, 3, 28, 12, tzinfo=UTC)),
        ("Europe/Berlin", datetime(2026, 10, 24, 12, tzinfo=UTC)),
        ("Australia/Lord_Howe", datetime(2026, 4, 4, 0, tzinfo=UTC)),
        ("Africa/Cairo", datetime(2026, 4, 23, 12, tzinfo=UTC)),
    ],
)
@pytest.mark.parametrize("expression", ["30 2 * * *", "0,30 0-3 * * *", "*/20 * * * *", "45 1 * * 0"])
def test_looking_back_sees_what_looking_forward_saw_while_clocks_change(
    expression: str, timezone: str, start: datetime
) -> None:
    cron = Cron(expression, timezone)
    moments, end = [cron.next_after(start)], start + timedelta(days=2)
    while moments[-1] < end:
        moments.append(cron.next_after(moments[-1]))
    assert moments == sorted(set(moments))
    for minute in range(0, 2 * 24 * 60, 7):
        now = start + timedelta(minutes=minute)
        assert cron.next_after(now) == min(moment for moment in moments if moment > now)
        assert cron.latest(start, now) == max((moment for moment in moments if moment <= now), default=None)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["* * * * *", "*/7 3-5 * * *", "0 2 * * 0", "0 0 1 * *", "0 12 4 7 *", "15 */6 * * 1-5"]),
    st.integers(0, 10**6),
    st.integers(0, 4 * 10**5),
)
def test_the_latest_is_the_last_of_all_that_were_missed(expression: str, start: int, minutes: int) -> None:
    cron = Cron(expression, "UTC")
    after = datetime(2025, 1, 1, tzinfo=UTC) + timedelta(minutes=start)
    until = after + timedelta(minutes=minutes)
    last = cron.latest(after, until)
    if last is None:
        assert cron.next_after(after) > until
    else:
        assert after < last <= until < cron.next_after(last)


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("0 2 * *", "five fields"),
        ("0 0 2 * * *", "five fields"),
        ("@weekly", "five fields"),
        ("60 * * * *", "'60' is no minute"),
        ("* 24 * * *", "'24' is no hour"),
        ("* * 0 * *", "'0' is no day-of-month"),
        ("* * L * *", "'L' is no day-of-month"),
        ("* * LW * *", "'LW' is no day-of-month"),
        ("* * * 13 *", "'13' is no month"),
        ("* * * * 8", "'8' is no day-of-week"),
        ("* * * * jan", "'JAN' is no day-of-week"),
        ("* * * * 5L", "'5L' is no day-of-week"),
        ("* * * * mon#2", "'MON#2' is no day-of-week"),
        ("5-1 * * * *", "'5-1' is no minute"),
        ("*/0 * * * *", "'*/0' is no minute"),
        ("5/15 * * * *", "'5/15' is no minute"),
        ("5-05/15 * * * *", "'5-05/15' is no minute"),
        ("-1 * * * *", "'-1' is no minute"),
        ("1,,2 * * * *", "'1,,2' is no minute"),
        ("last * * * *", "'LAST' is no minute"),
        ("0 2 1-7 * 0", "both the day of month and the day of week"),
        ("0 0 30 2 *", "never comes"),
    ],
)
def test_what_is_no_time_is_refused_with_its_field(expression: str, reason: str) -> None:
    with pytest.raises(ConfigError, match="cron=") as caught:
        Cron(expression, "UTC")
    assert reason in str(caught.value)


@pytest.mark.parametrize("name", ["Mars", "../etc/passwd", "", "UTC+1"])
def test_what_is_no_time_zone_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="timezone="):
        Cron("* * * * *", name)
