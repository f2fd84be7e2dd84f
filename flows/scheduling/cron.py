"""Cron expressions as crontab(5) and Kubernetes read them, on APScheduler's arithmetic of dates and time zones.

APScheduler's own reading of crontab counts week days from Monday, knows no 7, and takes a day of month *and* a day of
week where cron takes either; so the fields are read here, and it is handed lists of numbers and names of days.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, cast
from zoneinfo import ZoneInfo

from apscheduler.triggers.cron import CronTrigger

from mhim_core.errors import ConfigError

_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_PART = re.compile(r"(?:\*|(?P<low>[a-z0-9]+)(?:-(?P<high>[a-z0-9]+))?)(?:/(?P<step>[0-9]+))?")
_WINDOWS = (timedelta(hours=1), timedelta(days=1), timedelta(days=8), timedelta(days=32), timedelta(days=367))


class _Field(NamedTuple):
    name: str
    low: int
    high: int
    words: tuple[str, ...] = ()
    """Names of the numbers from `low` on."""


_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of week", 0, 7, _DAYS),
)


class Cron:
    """When something is due. Raises ConfigError for what no cron reads, what two crons read differently, or never."""

    def __init__(self, expression: str, timezone: str) -> None:
        fields = expression.split()
        if len(fields) != len(_FIELDS):
            wanted = ", ".join(field.name for field in _FIELDS)
            raise ConfigError(f"cron={expression!r} needs five fields ({wanted}), like cron='0 2 * * 0'")
        if fields[2] != "*" and fields[4] != "*":
            raise ConfigError(
                f"cron={expression!r} restricts both the day of month and the day of week, which means either of them "
                "and not both, as few expect; leave one of them *, or add two schedules"
            )
        numbers = [_numbers(field, text, expression) for field, text in zip(_FIELDS, fields, strict=True)]
        minute, hour, day, month, _ = (",".join(map(str, sorted(allowed))) for allowed in numbers)
        days = ",".join(dict.fromkeys(_DAYS[number % 7] for number in sorted(numbers[4])))
        self._is_hourly = fields[1].startswith("*")
        self._trigger = CronTrigger(
            minute=minute, hour=hour, day=day, month=month, day_of_week=days, timezone=_zone(timezone)
        )
        if self._next(datetime(2024, 1, 1, tzinfo=UTC)) is None:
            raise ConfigError(f"cron={expression!r} names a day that never comes")

    def next_after(self, moment: datetime) -> datetime:
        """The first time strictly after `moment`, in UTC."""
        moment_after = self._next(moment)
        assert moment_after is not None, "the constructor saw that there always is one"
        return moment_after

    def latest(self, after: datetime, until: datetime) -> datetime | None:
        """The last time in (after, until]: of many that were missed the one that counts. None: there is none."""
        for start in (*(until - window for window in _WINDOWS if until - window > after), after):
            times = list(self._between(start, until))
            if times:
                return times[-1]
        return None

    def _between(self, after: datetime, until: datetime) -> Iterator[datetime]:
        moment = self._next(after)
        while moment is not None and moment <= until:
            yield moment
            moment = self._next(moment)

    def _next(self, moment: datetime) -> datetime | None:
        moment_after = cast(datetime | None, self._trigger.get_next_fire_time(None, moment + timedelta(microseconds=1)))
        if moment_after is not None and moment_after.fold and not self._is_hourly:
            # clocks went back: 02:30 comes a second time, and a daily time is once a day
            return self._next(moment_after.astimezone(UTC))
        return None if moment_after is None else moment_after.astimezone(UTC)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ConfigError(f"timezone={name!r} is no time zone; write a name like UTC or Europe/Berlin") from error


def _numbers(field: _Field, text: str, expression: str) -> set[int]:
    """The numbers that a field like `*/15`, `1-5` or `mon,wed` stands for."""
    allowed: set[int] = set()
    for part in text.lower().split(","):
        match = _PART.fullmatch(part)
        if match is None or (match["step"] and match["low"] and not match["high"]):
            raise ConfigError(
                f"cron={expression!r}: {field.name} {text!r} is not *, a number, a-b, */n or a list of them"
            )
        low = _number(field, match["low"], expression) if match["low"] else field.low
        high = _number(field, match["high"], expression) if match["high"] else low if match["low"] else field.high
        if match["low"] is None and field.words is _DAYS:
            high = 6  # 7 is Sunday once more
        step = int(match["step"] or 1)
        if step < 1 or low > high:
            raise ConfigError(f"cron={expression!r}: {field.name} {part!r} is empty")
        allowed.update(range(low, high + 1, step))
    return allowed


def _number(field: _Field, text: str, expression: str) -> int:
    if text in field.words:
        return field.words.index(text) + field.low
    if text.isdecimal() and field.low <= int(text) <= field.high:
        return int(text)
    raise ConfigError(f"cron={expression!r}: {text!r} is no {field.name} from {field.low} to {field.high}")
