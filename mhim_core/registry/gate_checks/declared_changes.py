"""Does the challenger differ from the champion only in what `may_change` allows?"""

from collections.abc import Iterator

from mhim_core.registry.changes import changes
from mhim_core.registry.checks import register_check
from mhim_core.registry.contest import Check, Contest


@register_check("declared_changes", subject="models", order=30)
def check_declared_changes(contest: Contest) -> Iterator[Check]:
    """The number of undeclared differences between the cards. None without a champion."""
    if contest.champion is None:
        return
    differences = changes(contest.champion.card, contest.challenger.card)
    if undeclared := [change for change in differences if change.key not in contest.options.may_change]:
        words = ", ".join(change.words for change in undeclared)
        reason = f"changed and not declared in may_change: {words}"
        yield Check("declared_changes", False, len(undeclared), 0, reason)
    else:
        keys = ", ".join(change.key for change in differences) or "nothing"
        yield Check("declared_changes", True, 0, 0, f"changed, as declared: {keys}")
