"""Bags of high and low predicted risk: split at the median risk of the fit's own validation bags, never at test's."""

from typing import NamedTuple

import numpy as np

from mhim_core.evaluation.held_out import FitId, Rows, by_fit, by_seed, follow_up, risks
from mhim_core.evaluation.row_metrics import why_not_pooled
from mhim_core.metrics import LogRank, UndefinedMetricError, log_rank


class SeedGroups(NamedTuple):
    """One seed's held-out bags, sorted by bag."""

    rows: Rows
    is_high: tuple[bool, ...]
    """(N,): the risk lies above the median of the fit's validation bags."""


def median_risks(validation_rows: Rows) -> dict[FitId, float]:
    """Of each fit of one model."""
    return {fit: float(np.median(risks(rows))) for fit, rows in by_fit(validation_rows).items()}


def risk_groups(test_rows: Rows, validation_rows: Rows) -> dict[int, SeedGroups]:
    """By seed, of one model.

    Raises UndefinedMetricError naming a fit without validation bags, and where several folds hold out a bag.
    """
    if reason := why_not_pooled(test_rows):
        raise UndefinedMetricError(reason)
    medians = median_risks(validation_rows)
    groups = {}
    for seed, rows in by_seed(test_rows).items():
        if missing := sorted({row.fit for row in rows} - medians.keys()):
            raise UndefinedMetricError(
                f"seed {missing[0].seed}, fold {missing[0].fold}: there is no validation prediction to split risks at"
            )
        high = risks(rows) > np.array([medians[row.fit] for row in rows])
        groups[seed] = SeedGroups(rows, tuple(high.tolist()))
    return groups


def log_rank_of(groups: SeedGroups) -> LogRank:
    """Do the groups of high and low risk differ? Raises UndefinedMetricError as `log_rank`."""
    time, event = follow_up(row.target for row in groups.rows)
    return log_rank(time, event, np.array(groups.is_high))
