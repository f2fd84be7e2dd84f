"""Successive halving: after some epochs the worst configurations of a sweep are cut, and the others go on. No torch.

Every fit keeps its own schedule, of the length that it has without halving; it is only paused. So a configuration that
comes through ends in the weights that it would have had alone.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mhim_core.errors import ConfigError


class Rung(NamedTuple):
    """Where configurations are compared."""

    epochs: int | None
    """Epochs after which each fit pauses; None: the end."""
    keep: int
    """The number of configurations that go on from here."""


class Standing(NamedTuple):
    """How good a configuration is on validation: means over its folds and seeds."""

    metric: float | None
    """Higher is better; None: undefined in every fit, or a task without one."""
    loss: float


def rungs_of(num_configurations: int, epochs: int, factor: int, at: Sequence[int] = ()) -> tuple[Rung, ...]:
    """The rungs, the last of which is the end. `factor`: 1/factor go on from each; 0: no halving. `epochs`: of a fit.

    `at`: the epochs of the rungs; empty: so many that at most `factor` − 1 are left at the end, at epochs/factor,
    epochs/factor², …, rounded up.

    Raises ConfigError for a factor below 2, and for epochs that do not increase or are not below `epochs`.
    """
    end = Rung(None, num_configurations)
    if not factor:
        if at:
            raise ConfigError("rungs= is for halving=, such as halving=3")
        return (end,)
    if factor < 2:
        raise ConfigError(f"halving={factor} must be 0, or at least 2")
    if list(at) != sorted(set(at)) or any(not 1 <= epoch < epochs for epoch in at):
        raise ConfigError(f"rungs={','.join(map(str, at))} must increase, from 1 to below epochs={epochs}")
    if at:
        places = list(at)
    else:
        num_cuts = 0
        while factor ** (num_cuts + 1) <= num_configurations:
            num_cuts += 1
        places = [math.ceil(epochs / factor ** (num_cuts - index)) for index in range(num_cuts)]
    # of rungs that fall on one epoch, as with few epochs, the last counts
    kept = {place: max(1, num_configurations // factor ** (index + 1)) for index, place in enumerate(places)}
    cuts = tuple(Rung(place, keep) for place, keep in kept.items() if place < epochs)
    return (*cuts, end)


def mean_standing(metrics: Iterable[float | None], losses: Iterable[float]) -> Standing:
    """Of one configuration's fits. Metrics that are undefined in a fit are left out: they are so for every
    configuration, since all have the same validation bags."""
    known = [metric for metric in metrics if metric is not None]
    values = list(losses)
    return Standing(math.fsum(known) / len(known) if known else None, math.fsum(values) / len(values))


def rank(standings: Sequence[Standing]) -> list[int]:
    """Indices, the best first: by the higher metric, where it ties or there is none the lower loss, then in order."""
    return sorted(
        range(len(standings)),
        key=lambda index: (
            -math.inf if standings[index].metric is None else standings[index].metric,
            -standings[index].loss,
            -index,
        ),
        reverse=True,
    )
