"""Further foci than the first: discovered by erasing what is found, and selected by what the prediction rests on.

After the idea of discovery and selection for weakly supervised detection (2110.09060), in our own form for slides:

1. *Context*: among the most attended tiles one self-attention of their embedded features, a' = softmax(h hᵀ/√D)·a,
   averaged with a: what looks like an attended tile is attended as well.
2. *Discover*: peaks of that map that are the highest within `radius` tiles; the highest focus is erased and the model
   asked again, while it still says the same without all that was erased.
3. *Select*: foci in the order of their sufficiency, the score of the focus alone; beside it its necessity, by how much
   the whole bag's score falls without it. Their product, the order that was planned, ranks last whatever is shown
   twice, and was worse on foci of known place (docs/LOG.md).

Shapes: N tiles, D numbers of an embedded tile.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mhim_core.errors import ConfigError
from mhim_core.metrics.arrays import Floats


class AskedModel(Protocol):
    """A model that can be asked about some of a bag's tiles; rows are ascending, one at least."""

    def attention(self, rows: NDArray[np.int64]) -> Floats:
        """(n,) of a pass over these tiles alone."""
        ...

    def score(self, rows: NDArray[np.int64]) -> float:
        """What it says of them, such as the probability of a class."""
        ...

    def embedded(self, rows: NDArray[np.int64]) -> Floats:
        """(n, D): what its attention compares."""
        ...


@dataclass(frozen=True, kw_only=True)
class DiscoveryOptions:
    """How foci are looked for. Raises ConfigError for values out of range."""

    radius: float = 3.0
    """Within so many sides of a tile, along x and y, there is one focus."""
    rounds: int = 5
    """How often the highest focus is erased and the model asked again, at most."""
    per_round: int = 8
    """Peaks that are taken of one map."""
    context_tiles: int = 2048
    """Tiles between which context is exchanged; 0: none is."""
    least_score: float = 0.5
    """Erasing ends where the rest scores less."""
    extent: float = 0.5
    """A focus is the tiles within the radius that have this share of its peak's attention, 0 to 1."""

    def __post_init__(self) -> None:
        if self.radius <= 0 or self.rounds < 0 or self.per_round < 1 or self.context_tiles < 0:
            raise ConfigError("radius must be above 0, per_round at least 1, rounds and context_tiles not negative")
        if not 0 <= self.extent <= 1:
            raise ConfigError(f"extent={self.extent} must lie between 0 and 1")


DEFAULTS = DiscoveryOptions()


class FoundFocus(NamedTuple):
    """A place on the slide on which the prediction rests."""

    peak: int
    """The row of its highest tile."""
    rows: NDArray[np.int64]
    """Its tiles, ascending."""
    attention: float
    """The peak's, in the map in which it was found."""
    sufficiency: float
    necessity: float
    round: int
    """0: in the map of all tiles."""

    @property
    def selection(self) -> float:
        """Sufficiency × necessity; 0 for a focus without which the score rises."""
        return self.sufficiency * max(0.0, self.necessity)


def find_foci(
    coords_l0_px: NDArray[np.int32],
    tile_size_l0_px: tuple[int, int],
    model: AskedModel,
    options: DiscoveryOptions = DEFAULTS,
) -> list[FoundFocus]:
    """The foci of one slide, the one that is enough for the score first. [] for a slide without tiles."""
    everything = np.arange(len(coords_l0_px))
    if not len(everything):
        return []
    places = np.asarray(coords_l0_px, np.float64) / np.asarray(tile_size_l0_px, np.float64)
    full = model.score(everything)
    rows, found = everything, list[FoundFocus]()
    is_taken = np.zeros(len(everything), bool)
    for number in range(options.rounds + 1):
        if number and model.score(rows) < options.least_score:
            break
        map_N = np.full(len(everything), -np.inf)
        map_N[rows] = with_context(model, rows, model.attention(rows), options.context_tiles)
        fresh = [peak for peak in peaks(map_N, places, options) if not _is_known(peak, found, places, options.radius)]
        for peak in fresh:
            # what a higher focus has is not counted again for a place beside it
            own = _extent(peak, np.where(is_taken, -np.inf, map_N), places, options)
            is_taken[own] = True
            rest = np.setdiff1d(everything, own)
            without = model.score(rest) if len(rest) else 0.0
            found.append(FoundFocus(peak, own, float(map_N[peak]), model.score(own), full - without, number))
        # erased is the highest place of what is left, known or not: the next map must differ from this one
        rows = np.setdiff1d(rows, _extent(int(np.argmax(map_N)), map_N, places, options))
        if not len(rows):
            break
    return sorted(found, key=lambda focus: (-focus.sufficiency, focus.round, -focus.attention))


def with_context(model: AskedModel, rows: NDArray[np.int64], attention: ArrayLike, num_tiles: int) -> Floats:
    """(n,): the mean of the attention and of what it is after one self-attention among the top tiles."""
    values = np.asarray(attention, np.float64)
    top = np.sort(np.argsort(-values, kind="stable")[:num_tiles])
    if not len(top):
        return values
    embedded = np.asarray(model.embedded(rows[top]), np.float64)
    logits = embedded @ embedded.T / np.sqrt(embedded.shape[1])
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    widened = values.copy()
    widened[top] = (values[top] + weights @ values[top] / weights.sum(axis=1)) / 2
    return widened


def peaks(map_N: Floats, places: Floats, options: DiscoveryOptions) -> list[int]:
    """Non-maximum suppression: the rows of the highest values, none within the radius of a higher one.

    `places` (N, 2): in sides of a tile. Values of -inf are no tiles.
    """
    chosen: list[int] = []
    for row in np.argsort(-map_N, kind="stable").tolist():
        if len(chosen) == options.per_round or not np.isfinite(map_N[row]):
            break
        if all(np.abs(places[row] - places[other]).max() > options.radius for other in chosen):
            chosen.append(row)
    return chosen


def _extent(peak: int, map_N: Floats, places: Floats, options: DiscoveryOptions) -> NDArray[np.int64]:
    is_near = np.abs(places - places[peak]).max(axis=1) <= options.radius
    return np.flatnonzero(is_near & (map_N >= options.extent * map_N[peak]))


def _is_known(peak: int, found: list[FoundFocus], places: Floats, radius: float) -> bool:
    return any(np.abs(places[peak] - places[focus.peak]).max() <= radius for focus in found)
