"""Was this very model rolled back before?"""

from collections.abc import Iterator

from mhim_core.registry.checks import register_check
from mhim_core.registry.contest import Check, Contest


@register_check("not_withdrawn", subject="models", order=40)
def check_not_withdrawn(contest: Contest) -> Iterator[Check]:
    """A rollback is a person's decision, which no retraining undoes."""
    if contest.challenger.card.version in contest.withdrawn:
        reason = "this very model was rolled back; only mhim model promote brings it back"
        yield Check("not_withdrawn", False, None, None, reason)
    else:
        yield Check("not_withdrawn", True, None, None, "it was never rolled back")
