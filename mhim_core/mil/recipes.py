"""Named sets of options: the papers' and ours. Standard library only: `mhim --help` reads the names.

A recipe sets keys of `ModelOptions`, `MhimOptions` and `FitOptions`, above the defaults and below what a user types.
"""

from enum import Enum

from mhim_core.errors import ConfigError
from mhim_core.mil.options import (
    AUTO,
    Activation,
    RecycleAtTest,
    Schedule,
    Score,
    StudentInit,
    TeacherMode,
    TokenOrder,
)

Value = float | int | str | bool | Enum

DEFAULT_RECIPE = "mhim"

_MHIM: dict[str, Value] = {
    "high_mask_ratio": 0.03,
    "high_mask_subsample": 1.0,
    "high_mask_schedule": Schedule.constant,
    "random_mask_ratio": 0.1,
    "recycle_queries": 5,
    "recycle_momentum": 0.9999,
    "recycle_dropout": 0.1,
    "temperature": 0.1,
    "consistency_weight": 0.05,
    "ema_momentum": AUTO,
    "ema_schedule": Schedule.constant,
    "score": Score.margin,
    "teacher_mode": TeacherMode.eval,
    "student_init": StudentInit.fresh,
    "recycle_at_test": RecycleAtTest.auto,
    "token_order": TokenOrder.shuffled,
    "v1_random_mask_ratio": 0.0,
    "v1_low_mask_ratio": 0.0,
    "full_view_weight": 0.0,
}
_MHIM_V2 = _MHIM | {"random_mask_ratio": 0.8, "consistency_weight": 0.5, "ema_momentum": "0.9997"}
_MHIM_V1 = _MHIM | {
    "embed_activation": Activation.relu,
    "random_mask_ratio": 0.0,
    "consistency_weight": 0.1,
    "ema_momentum": "0.9999",
    "score": Score.attention,
    "student_init": StudentInit.embed,
    "recycle_at_test": RecycleAtTest.off,
    "high_mask_subsample": 0.5,
}
_V1_MASKS: dict[str, dict[str, Value]] = {
    "abmil": {"high_mask_ratio": 0.01, "high_mask_schedule": Schedule.cosine, "v1_random_mask_ratio": 0.5},
    "transmil": {"high_mask_ratio": 0.03, "v1_low_mask_ratio": 0.8},
}
"""As published for CAMELYON16. Aggregators that ICCV 2023 does not have take ABMIL's."""
_PUBLISHED_CODE = _MHIM_V2 | {
    "random_mask_ratio": 0.2,
    "recycle_at_test": RecycleAtTest.off,
    "score": Score.softmax_max,
    "teacher_mode": TeacherMode.train,
}

_RECIPES = {
    DEFAULT_RECIPE: _MHIM,
    "mhim-v2": _MHIM_V2,
    "mhim-v1": _MHIM_V1,
    "published-code": _PUBLISHED_CODE,
}
RECIPES = tuple(_RECIPES)
"""mhim: ours; mhim-v2: the text of IJCV 2025; mhim-v1: ICCV 2023; published-code: the commands of v2's repository."""


def recipe_defaults(name: str, aggregator: str) -> dict[str, Value]:
    """What the recipe sets for that aggregator, by key, in the types of the options. Raises ConfigError if unknown."""
    if name not in _RECIPES:
        raise ConfigError(f"recipe={name!r} is unknown; choose one of {', '.join(RECIPES)}")
    masks = _V1_MASKS.get(aggregator, _V1_MASKS["abmil"]) if name == "mhim-v1" else {}
    return _RECIPES[name] | masks
