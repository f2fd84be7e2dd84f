"""Is the holdout what was frozen?"""

from collections.abc import Iterator

from mhim_core.registry.checks import register_check
from mhim_core.registry.contest import Check, Contest, listed


@register_check("holdout_unchanged", subject="models", order=60)
def check_holdout_unchanged(contest: Contest) -> Iterator[Check]:
    """The number of holdout slides whose file, label or patient is another one now, or that are gone."""
    differences = contest.holdout_changes
    if differences:
        reason = f"{len(differences)} holdout slides are not as they were frozen: {listed(differences)}"
        yield Check("holdout_unchanged", False, len(differences), 0, reason)
    else:
        reason = f"all {len(contest.holdout.slides)} holdout slides are as they were frozen"
        yield Check("holdout_unchanged", True, 0, 0, reason)
