"""MamMIL's own options. No torch: `mhim --help` imports this."""

from dataclasses import dataclass, field
from enum import StrEnum

from mhim_core.errors import ConfigError


class MammilGraph(StrEnum):
    """What MamMIL's paths follow: the tissue (tiles), or the order in which instances are stored (path)."""

    tiles = "tiles"
    path = "path"


@dataclass(frozen=True, kw_only=True)
class MammilOptions:
    """Options of aggregator=mammil."""

    mammil_layers: int = field(default=1, metadata={"neutral": 1})
    """Number of state-space layers. Between two of them, and behind a single one, neighbours in the tissue's tree
    exchange messages; 1 is what the published code runs where it says 2."""
    mammil_states: int = field(default=128, metadata={"neutral": 128})
    """Size of a channel's state: what a path remembers of the instances before."""
    mammil_dropout: float = field(default=0.1, metadata={"neutral": 0.1})
    """Dropout after the messages along the tree in training, 0 to below 1; 0 disables it."""
    mammil_graph: MammilGraph = field(default=MammilGraph.tiles, metadata={"neutral": MammilGraph.tiles})
    """tiles: paths along a spanning tree of neighbouring tiles, which needs the tiles' coordinates; path: one path in
    the order in which the instances are stored, for features without coordinates."""

    def __post_init__(self) -> None:
        for name in ("mammil_layers", "mammil_states"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1")
        if not 0 <= self.mammil_dropout < 1:
            raise ConfigError(f"mammil_dropout={self.mammil_dropout} must be at least 0 and below 1")

    @property
    def needs_places(self) -> bool:
        """Whether bags must have the tiles' coordinates."""
        return self.mammil_graph is MammilGraph.tiles
