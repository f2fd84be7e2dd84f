"""The configurations of a sweep: every combination of the values that vary, as the config of its own training."""

from collections.abc import Sequence
from typing import NamedTuple

from flows.config.commands import TrainConfig
from flows.config.flat import keys_of
from flows.config.sweep import SweepConfig
from flows.config.words import with_recipe
from flows.runs.identity import keys_identity
from mhim_core.errors import ConfigError
from mhim_core.fingerprint import fingerprint
from mhim_core.train.sweep_grid import Setting, configuration_name, expand_grid, say


class Configuration(NamedTuple):
    """One point of the grid."""

    name: str
    setting: Setting
    config: TrainConfig | None
    """What `mhim train` makes of its keys; None: they do not go together."""
    reason: str = ""
    """Why not."""


def configurations_of(config: SweepConfig) -> list[Configuration]:
    """Every combination, in order.

    Raises ConfigError where a value goes with none of the others', as one that is misspelt; where two combinations are
    one training; and as `SweepConfig.axes` and `expand_grid`.
    """
    points = [_configuration(config, setting) for setting in expand_grid(config.axes())]
    _check_values(points)
    _check_distinct(points)
    return points


def run_folder(name: str) -> str:
    """The key of a configuration's run below the sweep."""
    return f"runs/{name}"


def _configuration(config: SweepConfig, setting: Setting) -> Configuration:
    name, own = configuration_name(setting), keys_of(TrainConfig)
    given = {key: value for key, value in config.given.items() if key in own}
    out = f"{config.out.rstrip('/')}/{run_folder(name)}"
    try:
        return Configuration(name, setting, with_recipe(TrainConfig, given | dict(setting) | {"out": out}))
    except ConfigError as error:
        return Configuration(name, setting, None, str(error))


def _check_values(points: Sequence[Configuration]) -> None:
    """A value that goes with no other is refused before any work: it is a slip, and no part of the grid."""
    for key in points[0].setting:
        for value in dict.fromkeys(point.setting[key] for point in points):
            having = [point for point in points if point.setting[key] == value]
            if all(point.config is None for point in having):
                raise ConfigError(f"vary: {key}={say(value)}: {having[0].reason}")
    if all(point.config is None for point in points):
        raise ConfigError(points[0].reason)


def _check_distinct(points: Sequence[Configuration]) -> None:
    """Two that are one training, such as with method=plain and several values of an option of MHIM."""
    first_of: dict[str, str] = {}
    for point in points:
        if point.config is not None:
            first = first_of.setdefault(fingerprint(keys_identity(point.config)), point.name)
            if first != point.name:
                raise ConfigError(
                    f"vary: {first} and {point.name} are one training, since what they differ in does not apply there; "
                    "sweep them apart"
                )
