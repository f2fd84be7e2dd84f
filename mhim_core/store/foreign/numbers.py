"""Numbers that other tools' files state, or do not."""

import math
from collections.abc import Mapping
from typing import Any

from mhim_core.errors import SlideError
from mhim_core.types import FailureReason


def length_of(stated: Mapping[str, Any], name: str) -> float | None:
    """A number above 0; None: not stated. Raises SlideError(bad_features) for anything else."""
    value = stated.get(name)
    if value is None or value == "None":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise SlideError(FailureReason.BAD_FEATURES, f"it states {name}={value!r}, which is no size")
    return number


def count_of(stated: Mapping[str, Any], name: str) -> int | None:
    """A whole number of 0 or more; None: not stated. Raises SlideError(bad_features) for anything else."""
    value = stated.get(name)
    if value is None or value == "None":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number >= 0 and number == int(number)):
        raise SlideError(FailureReason.BAD_FEATURES, f"it states {name}={value!r}, which is no number of pixels")
    return int(number)
