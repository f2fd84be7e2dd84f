"""Numbers as text for readers."""

from mhim_core.metrics import Estimate, Metric

MINUS = "−"
_IN_USERS_UNIT = ("mae", "rmse")
"""Metrics whose size is the labels'; the others lie near 1."""


def format_number(value: float | None, digits: int = 3) -> str:
    """`0.912`; a dash for None."""
    if value is None:
        return "–"
    return _signed(f"{value:.{digits}f}")


def format_amount(value: float | None) -> str:
    """A number of any size, to about four digits: `0.0123`, `12.35`, `12346`; a dash for None."""
    if value is None:
        return "–"
    return _signed(f"{value:.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}")


def format_difference(value: float | None) -> str:
    """An amount with its sign: `+3.2`."""
    text = format_amount(value)
    return f"+{text}" if value is not None and value > 0 else text


def format_p(value: float | None) -> str:
    """`0.07`, `< 0.0001`; a dash for None."""
    if value is None:
        return "–"
    return "< 0.0001" if value < 0.0001 else f"{value:.2g}"


def format_metric(value: float | None, name: str) -> str:
    """A metric's value, or an end of its interval, by the metric's key; as many digits for one as for another."""
    if value is None or name not in _IN_USERS_UNIT or abs(value) >= 1000:
        return format_amount(value) if name in _IN_USERS_UNIT else format_number(value)
    return _signed(f"{value:#.4g}")


def format_estimate(estimate: Estimate | Metric, name: str = "") -> str:
    """`0.912 [0.85, 0.96]`, or a dash."""
    low, high = getattr(estimate, "low", None), getattr(estimate, "high", None)
    interval = "" if low is None else f" [{format_metric(low, name)}, {format_metric(high, name)}]"
    return format_metric(estimate.value, name) + interval


def format_duration(seconds: float) -> str:
    """`2 h 5 min`, `1 min 3 s`, `12 s`."""
    minutes, rest_s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest_s} s" if minutes else f"{rest_s} s"


def _signed(text: str) -> str:
    """A true minus; no minus before a zero."""
    if text.startswith("-") and not text.strip("-0."):
        return text[1:]
    return text.replace("-", MINUS)
