"""Defaults that moved since a run or a pipeline was begun: the same words go on with what they began.

An identity does not say whether a key was given. What nobody gives is taken as the default of then where that alone
tells the words from a run or a pipeline that is there, and a note says so.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from flows.config.commands import TrainConfig
from flows.config.flat import flat, with_keys
from flows.config.keys import Method
from flows.config.lifecycle import PipelineConfig
from mhim_core.train.sections import flat_options

EARLIER: Mapping[str, Any] = MappingProxyType({"full_view_weight": 0.0})
"""By key of MHIM the default that it had first."""


def earlier_defaults(config: TrainConfig | PipelineConfig) -> dict[str, Any]:
    """The earlier defaults of keys that the user did not give, where today's differ."""
    if config.method is not Method.mhim or "*" in config.asked:
        return {}
    values = flat(config)
    return {name: value for name, value in EARLIER.items() if name not in config.asked and values[name] != value}


def as_begun(config: TrainConfig, record: Mapping[str, Any] | None) -> TrainConfig:
    """The config with the defaults that the run in its `out=` was begun with. `record`: that run's; None: there is none
    yet."""
    if record is None:
        return config
    stored = flat_options(record["identity"])
    kept = {name: value for name, value in earlier_defaults(config).items() if stored.get(name) == value}
    if not kept:
        return config
    print(begun_note("run", config, kept))
    return with_keys(config, **kept)


def begun_note(what: str, config: TrainConfig | PipelineConfig, kept: Mapping[str, Any]) -> str:
    """A line on the defaults of then with which a run or pipeline goes on."""
    values = flat(config)
    then = ", ".join(f"{name}={value:g}" for name, value in kept.items())
    today = ", ".join(f"{name}={values[name]:g}" for name in kept)
    return f"note: the {what} was begun with {then}, the default of then, and goes on with it; by now it is {today}"
