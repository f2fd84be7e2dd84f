"""The configurations of a sweep: every combination of the values of some keys. Light: no torch."""

import math
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from itertools import product
from typing import TypeAlias

from mhim_core.errors import ConfigError
from mhim_core.fingerprint import fingerprint

Value: TypeAlias = float | int | str | bool | Enum | None

Setting: TypeAlias = Mapping[str, Value]
"""The values of the keys that vary, in one configuration."""

AS_GIVEN = "as-given"
"""The name of the only configuration where no key varies."""
MAX_CONFIGURATIONS = 10_000
"""More are a slip of typing: the run of each has a folder of its own."""
_MAX_NAME = 120
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=+-]*")
"""What may be a folder's name, everywhere, without being escaped."""


def expand_grid(axes: Mapping[str, Sequence[Value]]) -> tuple[Setting, ...]:
    """Every combination, the last key's values changing fastest; without axes the one empty setting.

    Raises ConfigError for a key without values, a value that is given twice, and more than MAX_CONFIGURATIONS.
    """
    for key, values in axes.items():
        if not values:
            raise ConfigError(f"vary: {key} has no value; write {key}=a,b")
        texts = [_normal(value) for value in values]
        if twice := [say(value) for value, text in zip(values, texts, strict=True) if texts.count(text) > 1]:
            raise ConfigError(f"vary: {key} has the value {twice[0]} twice; give each once")
    number = math.prod(map(len, axes.values()))
    if number > MAX_CONFIGURATIONS:
        raise ConfigError(f"vary: {number:,} configurations; {MAX_CONFIGURATIONS:,} at most")
    return tuple(dict(zip(axes, values, strict=True)) for values in product(*axes.values()))


def configuration_name(setting: Setting) -> str:
    """`high_mask_ratio=0.03+random_mask_ratio=0.8`, which is also the name of its folder; a digest where that is no
    folder's name."""
    name = "+".join(f"{key}={say(value)}" for key, value in setting.items()) or AS_GIVEN
    if len(name) <= _MAX_NAME and _PLAIN_NAME.fullmatch(name):
        return name
    return f"configuration-{fingerprint({key: say(value) for key, value in setting.items()})[:12]}"


def say(value: Value) -> str:
    """As a person types it: `0.03`, `1`, `true`, `none`, an enum's name."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Enum):
        return value.name
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


def _normal(value: Value) -> str:
    """Equal for values that mean the same: a number is one however it is written, also where a text may be one."""
    if isinstance(value, str) and not isinstance(value, Enum):
        try:
            return repr(float(value))
        except ValueError:
            return value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return repr(float(value)) if is_number else say(value)  # type: ignore[arg-type]
