"""Cron expressions as crontab(5) and Kubernetes read them: cronsim, without what it alone accepts.

When clocks change, times are Debian's: a daily time comes once, and one that is skipped comes right after the change;
with `*` as the minute or the hour, elapsed time counts.
"""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from cronsim.cronsim import FIELD_NAMES, Field

from mhim_core.errors import ConfigError

_FIELDS = (Field.MINUTE, Field.HOUR, Field.DAY, Field.MONTH, Field.DOW)
_LONGEST_REPEAT = timedelta(hours=3)  # more than any zone's clocks go back


class Cron:
    """When something is due. Raises ConfigError for an expression that is invalid, ambiguous, or never due."""

    def __init__(self, expression: str, timezone: str) -> None:
        texts, start = expression.upper().split(), f"cron={expression!r}"
        if len(texts) != len(_FIELDS):
            names = ", ".join(FIELD_NAMES[field] for field in _FIELDS)
            raise ConfigError(f"{start} needs five fields ({names}), like cron='0 2 * * 0'")
        for field, text in zip(_FIELDS, texts, strict=True):
            if not all(_is_plain(field, part) for part in text.split(",")):
                raise ConfigError(f"{start}: {text!r} is no {FIELD_NAMES[field]} (*, a number, a-b, */n, or a list)")
        if texts[2] != "*" and texts[4] != "*":
            raise ConfigError(
                f"{start} restricts both the day of month and the day of week, and cron takes days that match either; "
                "leave one of them *, or add two schedules"
            )
        try:
            self._expression, self._zone = expression, ZoneInfo(timezone)
            CronSim(expression, datetime.now(UTC))
        except CronSimError:
            raise ConfigError(f"{start} names a day that never comes") from None
        except (KeyError, ValueError, OSError) as error:
            raise ConfigError(f"timezone={timezone!r} is no time zone like UTC or Europe/Berlin") from error

    def next_after(self, moment: datetime) -> datetime:
        """The first time strictly after `moment`, in UTC."""
        times = CronSim(self._expression, moment.astimezone(self._zone))
        return next(utc for time in times if (utc := time.astimezone(UTC)) > moment)  # not so in an hour's repetition

    def latest(self, after: datetime, until: datetime) -> datetime | None:
        """The last time in (after, until], in UTC: of all that were missed the one that counts. None: none was."""
        times = CronSim(self._expression, (until + _LONGEST_REPEAT).astimezone(self._zone), reverse=True)
        last = next(utc for time in times if (utc := time.astimezone(UTC)) <= until)
        return last if last > after else None


def _is_plain(field: Field, part: str) -> bool:
    """Whether all crons read it alike: none of cronsim's L, # and a/n, which is every n from a on."""
    try:
        values, first = field.parse(part), field.parse(part.partition("/")[0])
    except CronSimError:
        return False
    return all(isinstance(value, int) and value >= 0 for value in values) and ("/" not in part or len(first) > 1)
