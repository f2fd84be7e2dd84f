"""Options of MDMIL. No torch: `mhim --help` reads this."""

import math
from dataclasses import dataclass, field
from enum import StrEnum

from mhim_core.errors import ConfigError
from mhim_core.task import Task, TaskKind


class MdmilSelection(StrEnum):
    """How many of its top tiles make a class's query: the published rules, for classes of equal standing (tcga) and
    for normal against tumour (camelyon, two classes)."""

    tcga = "tcga"
    camelyon = "camelyon"


class MdmilInstanceLoss(StrEnum):
    """Loss of the largest instance probability p of each class: clean is -log p of the bag's class; released is the
    published code's cross-entropy, which takes p for logits."""

    clean = "clean"
    released = "released"


PUBLISHED_MARGIN = {MdmilSelection.tcga: -0.1, MdmilSelection.camelyon: 0.2}
PUBLISHED_FIRST_SHARE = {MdmilSelection.tcga: 0.05, MdmilSelection.camelyon: 0.01}
PUBLISHED_OTHER_SHARE = {MdmilSelection.tcga: 0.01, MdmilSelection.camelyon: 0.05}


@dataclass(frozen=True, kw_only=True)
class MdmilOptions:
    """Options of aggregator=mdmil."""

    mdmil_selection: MdmilSelection = field(default=MdmilSelection.tcga, metadata={"neutral": MdmilSelection.tcga})
    """Rule for how many top tiles make a class's query: tcga (any number of classes) or camelyon (two classes)."""
    mdmil_first_share: float | None = field(default=None, metadata={"neutral": None})
    """Share p1 of a bag's tiles, at least one, that makes the query of the class that the rule prefers, above 0 to 1;
    none: .05 with tcga, .01 with camelyon."""
    mdmil_other_share: float | None = field(default=None, metadata={"neutral": None})
    """Share p2 of a bag's tiles, at least one, that makes every other query, above 0 to 1; none: .01 with tcga, .05
    with camelyon."""
    mdmil_margin: float | None = field(default=None, metadata={"neutral": None})
    """Number m added to the leading class's confidence before it is compared with the next one's; none: -.1 with tcga,
    .2 with camelyon."""
    mdmil_instance_loss: MdmilInstanceLoss = field(
        default=MdmilInstanceLoss.clean, metadata={"neutral": MdmilInstanceLoss.clean}
    )
    """Loss of the largest instance probabilities: clean (-log of the bag's class's) or released (as the published code
    has it)."""
    mdmil_memory_weight: float = field(default=0.5, metadata={"neutral": 0.5})
    """Weight of the memory loss in the task loss, at least 0; 0 disables it."""

    def __post_init__(self) -> None:
        for name, kind in (("mdmil_selection", MdmilSelection), ("mdmil_instance_loss", MdmilInstanceLoss)):
            if getattr(self, name) not in list(kind):
                raise ConfigError(f"{name}={getattr(self, name)!r} must be one of {', '.join(kind)}")
        for name in ("mdmil_first_share", "mdmil_other_share"):
            share = getattr(self, name)
            if share is not None and not 0 < share <= 1:
                raise ConfigError(f"{name}={share} must be above 0 and at most 1")
        if self.mdmil_margin is not None and not math.isfinite(self.mdmil_margin):
            raise ConfigError(f"mdmil_margin={self.mdmil_margin} must be a number")
        if not 0 <= self.mdmil_memory_weight < math.inf:
            raise ConfigError(f"mdmil_memory_weight={self.mdmil_memory_weight} must be a number and not negative")

    def check_task(self, task: Task) -> None:
        """Raises ConfigError for a task that MDMIL cannot learn."""
        if task.kind is not TaskKind.classification:
            raise ConfigError(
                f"aggregator=mdmil needs classes, and the task is {task.kind}: what chooses the tiles of its queries "
                "is trained by the bags' classes alone"
            )
        if self.mdmil_selection == MdmilSelection.camelyon and task.num_outputs != 2:
            raise ConfigError(f"mdmil_selection=camelyon is for two classes, not for {task.num_outputs}; choose tcga")

    @property
    def first_share(self) -> float:
        """p1, with auto resolved."""
        published = PUBLISHED_FIRST_SHARE[self.mdmil_selection]
        return published if self.mdmil_first_share is None else self.mdmil_first_share

    @property
    def other_share(self) -> float:
        """p2, with auto resolved."""
        published = PUBLISHED_OTHER_SHARE[self.mdmil_selection]
        return published if self.mdmil_other_share is None else self.mdmil_other_share

    @property
    def margin(self) -> float:
        """m, with auto resolved."""
        return PUBLISHED_MARGIN[self.mdmil_selection] if self.mdmil_margin is None else self.mdmil_margin
