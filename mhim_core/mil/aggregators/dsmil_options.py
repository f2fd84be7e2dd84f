"""Options of DSMIL. No torch: `mhim --help` reads this."""

from dataclasses import dataclass, field
from enum import StrEnum


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
