"""Is the challenger another model than the champion?"""

from collections.abc import Iterator

from mhim_core.registry.checks import register_check
from mhim_core.registry.contest import Check, Contest


@register_check("new_model", subject="models", order=10)
def check_new_model(contest: Contest) -> Iterator[Check]:
    """Another version, and at least one other prediction of the holdout. None without a champion."""
    champion, challenger = contest.champion, contest.challenger
    if champion is None:
        return
    logits = [{row.bag_id: row.logits for row in contender.rows} for contender in (champion, challenger)]
    if champion.card.version == challenger.card.version:
        yield Check("new_model", False, None, None, "the challenger is the champion itself")
    elif logits[0] == logits[1]:
        yield Check("new_model", False, None, None, "its predictions of the holdout are the champion's, every one")
    else:
        yield Check("new_model", True, None, None, "another model, with other predictions")
