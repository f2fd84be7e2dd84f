"""The facts about one slide that the rest needs, free of its path and of anything that could name a patient."""

from typing import NamedTuple

from mhim_core.slides.spec import LEVEL_TOLERANCE


class Level(NamedTuple):
    """One resolution of the pyramid."""

    width_px: int
    height_px: int
    downsample: float
    """Level-0 pixels per pixel of this level."""


class SlideInfo(NamedTuple):
    """What a slide file states about itself: an allow-list. Labels, barcodes and descriptions are never read."""

    levels: tuple[Level, ...]
    """Finest first; level 0 is the scan itself."""
    mpp_x: float | None
    """µm/px of level 0 as the file states it, unjudged; None where it states nothing readable."""
    mpp_y: float | None
    vendor: str
    objective_power: float | None
    unreadable: tuple[int, ...] = ()
    """Levels that were found to be broken as a whole; `level_for` leaves them out."""

    @property
    def width_l0_px(self) -> int:
        return self.levels[0].width_px

    @property
    def height_l0_px(self) -> int:
        return self.levels[0].height_px

    def level_for(self, wanted_downsample: float) -> int:
        """The coarsest readable level that is still at least as fine as wanted (1 % tolerance); 0 if none is."""
        limit = wanted_downsample * LEVEL_TOLERANCE
        fine = [i for i, level in enumerate(self.levels) if level.downsample <= limit and i not in self.unreadable]
        return max(fine, key=lambda i: (self.levels[i].downsample, -i), default=0)
