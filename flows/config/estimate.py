"""The keys of `mhim check estimate=true`. Light: `--help` reads this file."""

from dataclasses import dataclass

from flows.config.keys import check_least
from mhim_core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class EstimateKeys:
    """What embedding would cost, from a sample of the cohort."""

    estimate: bool = False
    """Look at a sample of the slides alone, and tell what embedding all of them would cost: tiles, hours, GB, requests;
    false: look at every slide."""
    estimate_slides: int = 32
    """Slides in that sample."""
    encoder_tiles_per_s: float | None = None
    """Tiles that one encoder takes a second on the machine that will do it; none: measured here, on one core."""

    def __post_init__(self) -> None:
        check_least(self, 1, "estimate_slides")
        if self.encoder_tiles_per_s is not None and not self.encoder_tiles_per_s > 0:
            raise ConfigError(f"encoder_tiles_per_s={self.encoder_tiles_per_s} must be above 0")
