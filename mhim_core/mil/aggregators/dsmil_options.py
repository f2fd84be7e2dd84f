"""Options of DSMIL. No torch: `mhim --help` reads this."""

from dataclasses import dataclass, field
from enum import StrEnum

from mhim_core.errors import ConfigError


class DsmilQuery(StrEnum):
    """Which of the two papers' forms: mlp is CVPR 2021's, linear that of 2020."""

    mlp = "mlp"
    linear = "linear"


@dataclass(frozen=True, kw_only=True)
class DsmilOptions:
    """Options of aggregator=dsmil."""

    dsmil_query: DsmilQuery = field(default=DsmilQuery.mlp, metadata={"neutral": DsmilQuery.mlp})
    """mlp: the form of CVPR 2021; linear: that of 2020, with linear queries whose products are not scaled, instances as
    their own values, and the head on each class's embedding."""

    def __post_init__(self) -> None:
        if self.dsmil_query not in list(DsmilQuery):
            raise ConfigError(f"dsmil_query={self.dsmil_query!r} must be one of {', '.join(DsmilQuery)}")
