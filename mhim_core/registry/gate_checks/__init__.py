"""The checks of the gate, a file each; a new one is a file here and its function in one of these tables.

A check takes the `Contest` and yields a `Check` for each condition, also where it passes; none where it does not apply.
They are made and listed in this order.
"""

from collections.abc import Callable, Iterator

from mhim_core.registry.contest import Check, Contest
from mhim_core.registry.gate_checks.brier import check_brier
from mhim_core.registry.gate_checks.champion_unseen import check_champion_unseen
from mhim_core.registry.gate_checks.declared_changes import check_declared_changes
from mhim_core.registry.gate_checks.finite import check_finite
from mhim_core.registry.gate_checks.floor import check_floor
from mhim_core.registry.gate_checks.holdout_predicted import check_holdout_predicted
from mhim_core.registry.gate_checks.holdout_unchanged import check_holdout_unchanged
from mhim_core.registry.gate_checks.holdout_unseen import check_holdout_unseen
from mhim_core.registry.gate_checks.never_miss import check_never_miss
from mhim_core.registry.gate_checks.new_model import check_new_model
from mhim_core.registry.gate_checks.non_inferior import check_non_inferior
from mhim_core.registry.gate_checks.not_withdrawn import check_not_withdrawn
from mhim_core.registry.gate_checks.same_inputs import check_same_inputs

GateCheck = Callable[[Contest], Iterator[Check]]

OF_MODELS: tuple[GateCheck, ...] = (
    check_new_model,
    check_same_inputs,
    check_declared_changes,
    check_not_withdrawn,
    check_holdout_unseen,
    check_holdout_unchanged,
    check_champion_unseen,
)
"""Of the two cards and the holdout."""
OF_PREDICTIONS: tuple[GateCheck, ...] = (check_holdout_predicted, check_finite)
"""Of the predictions as such: there are figures only where all of these pass."""
OF_PERFORMANCE: tuple[GateCheck, ...] = (check_floor, check_non_inferior, check_brier, check_never_miss)
"""Of what the predictions are worth."""
