"""The input and the result of a gate check."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mhim_core.evaluation.held_out import Rows
from mhim_core.registry.figures import Contender, Figures
from mhim_core.registry.gate_options import GateOptions
from mhim_core.registry.holdout import Holdout

NOT_COMPARED = "the predictions cannot be compared (see the checks above)"
"""The reason of a check that needs figures where there are none."""
_MAX_LISTED = 10


class Check(NamedTuple):
    """One condition and its outcome."""

    name: str
    passed: bool | None
    """None: it could not be made, and refuses nothing."""
    value: float | None
    """The number that was compared, where there is one."""
    limit: float | None
    """The number that it was compared with."""
    reason: str
    """A sentence, in either case. It names no patient."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, in which the number is called `found`, as in the registries of 0.1."""
        values = self._asdict()
        return {"found": values.pop("value"), **values}


@dataclass(frozen=True, kw_only=True)
class Contest:
    """A challenger against the champion on the frozen holdout, or a first model (champion None) alone."""

    champion: Contender | None
    challenger: Contender
    holdout: Holdout
    options: GateOptions
    metric: str
    """The one that decides; `options.gate_metric` or the default of the task."""
    holdout_changes: Sequence[str] = ()
    """How the holdout's slides differ from what was frozen, a phrase each."""
    never_miss_rows: Rows = ()
    """The challenger's predictions of bags of the never-miss list that are not in the holdout."""
    withdrawn: Collection[str] = ()
    """Versions that were rolled back."""
    figures: Figures | None = None
    """None while the checks of predictions are made, and after them where one did not pass."""
    figures_by_site: Mapping[str, Figures] = field(default_factory=dict)
    """Empty where `figures` is None, and where all slides are of one site."""


def listed(names: Sequence[str]) -> str:
    """The first ten, and how many more there are."""
    more = f"; and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return "; ".join(names[:_MAX_LISTED]) + more
