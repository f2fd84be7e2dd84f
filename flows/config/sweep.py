"""The keys of `mhim sweep`: those of `mhim train`, and what varies. Light: `--help` reads this file."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from flows.config.commands import TrainConfig
from flows.config.flat import flat, keys_of, split_list
from flows.config.keys import check_least
from flows.config.roles import Role, grid, role
from flows.config.words import split_words, with_recipe, word_value
from mhim_core.errors import ConfigError
from mhim_core.train.sweep_grid import Value

COMMAND = "sweep"
_VARYING_PARTS = ("model", "mhim", "fit")
"""The parts of a training's config whose keys may vary, beside `_VARYING_KEYS`: the others change the data, the splits
or how the work is done."""
_VARYING_KEYS = ("method", "recipe")
_FIXED_KEYS = ("seed", "plugin_sha256")
"""Of those parts: the seed also draws the folds, and the file of an aggregator is one for all."""


@dataclass(frozen=True, kw_only=True)
class SweepConfig(TrainConfig):
    """mhim sweep: the same cohort and features under every combination of some keys' values."""

    out: str = field(metadata=role(Role.output))
    """The sweep: a folder or s3://bucket/prefix. Each configuration is a run below runs/, which evaluate, predict and
    report open. The same keys resume it; others are refused."""
    vary: str = field(default="", metadata=role(Role.identity) | grid())
    """The keys that vary, each with its values: vary="high_mask_ratio=.01,.03 random_mask_ratio=.1,.8" trains four
    configurations; in a file a mapping of keys to lists. Keys of the model, of MHIM and of the fit, method and recipe;
    a key's own value gives way to those here. Empty: one configuration."""
    halving: int = field(default=0, metadata=role(Role.identity))
    """Successive halving: at each rung only one in so many configurations goes on, by validation; 3 is usual. 0: all
    are trained to the end."""
    rungs: str = field(default="", metadata=role(Role.identity, listed=True))
    """With halving, the epochs after which configurations are compared, such as 20,60; empty: epochs/halving,
    epochs/halving², …, as often as there are configurations for it."""
    top: int = field(default=5, metadata=role(Role.execution))
    """How many rows of the leaderboard are printed; 0: none. Its files have all."""
    asked: tuple[str, ...] = field(default=("*",), metadata={"is_key": False}, compare=False)
    """The keys that the user gave; the others are a configuration's recipe's, or defaults. `*`: all, in Python."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, 0, "halving", "top")
        if self.halving == 1:
            raise ConfigError("halving=1 would cut nothing; 3 is usual, and 0 trains all configurations to the end")
        if self.rungs and not self.halving:
            raise ConfigError(f"rungs={self.rungs} is for halving=, such as halving=3")
        # said here, and not after the cohort has been read
        self.axes()
        _ = self.rung_epochs

    @classmethod
    def by_recipe(cls, **keys: Any) -> "SweepConfig":
        """The config that `mhim sweep key=value …` makes of these keys."""
        return dataclasses.replace(with_recipe(cls, keys), asked=tuple(sorted(keys)))

    @property
    def given(self) -> dict[str, Any]:
        """The values of the keys that the user gave, of this command's own too."""
        return {name: value for name, value in flat(self).items() if name in self.asked or "*" in self.asked}

    @property
    def rung_epochs(self) -> tuple[int, ...]:
        """Raises ConfigError for what are no whole numbers."""
        try:
            return tuple(int(text) for text in split_list(self.rungs))
        except ValueError:
            raise ConfigError(f"rungs={self.rungs} must be numbers of epochs, such as 20,60") from None

    def axes(self) -> dict[str, tuple[Value, ...]]:
        """The values of each key that varies. Raises ConfigError for a key that is unknown or may not vary, and for
        values that are not of its kind."""
        keys = keys_of(TrainConfig)
        axes: dict[str, tuple[Value, ...]] = {}
        try:
            for name, text in split_words(self.vary.split(), list(keys), COMMAND).items():
                if not _may_vary(name):
                    raise ConfigError(_why_not(name))
                axes[name] = tuple(word_value(keys[name], item) for item in split_list(text))
        except ConfigError as error:
            raise ConfigError(f"vary={self.vary}: {error}") from None
        return axes


def _may_vary(name: str) -> bool:
    path = keys_of(TrainConfig)[name].path
    is_option = name in _VARYING_KEYS or (len(path) > 0 and path[0] in _VARYING_PARTS)
    return is_option and name not in _FIXED_KEYS


def _why_not(name: str) -> str:
    if name in ("seed", "seeds"):
        return "seed= also draws the folds; seeds=3 trains every configuration with three seeds on the same folds"
    if keys_of(TrainConfig)[name].role is Role.execution:
        return f"{name}= changes how the work is done and not what comes out, so it has one value"
    if name == "predict_with":
        return (
            "predict_with= changes no fit, so it has one value; mhim evaluate predict_with=… goes by another of the "
            "winner's models"
        )
    return (
        f"{name}= may not vary: it changes the data, the splits or a place, and configurations are compared on the "
        "same folds of the same bags"
    )
