"""Are the challenger's class probabilities about as good as the champion's?"""

from collections.abc import Iterator

from mhim_core.registry.checks import register_check
from mhim_core.registry.contest import NOT_COMPARED, Check, Contest
from mhim_core.task import TaskKind


@register_check("brier", subject="performance", order=30)
def check_brier(contest: Contest) -> Iterator[Check]:
    """The Brier score of the mean probabilities, before any temperature, against the champion's plus ε.

    Cannot be made for a task without classes. None without a champion.
    """
    if contest.champion is None:
        return
    kind, figures = contest.challenger.card.task.kind, contest.figures
    if kind is not TaskKind.classification:
        yield Check("brier", None, None, None, f"a {kind} has no class probabilities")
        return
    if figures is None:
        yield Check("brier", False, None, None, NOT_COMPARED)
        return
    before, after = (figures.estimate(role, "brier").value for role in ("champion", "challenger"))
    if before is None or after is None:
        yield Check("brier", False, after, None, "the Brier score has no value on the holdout")
        return
    limit = before + contest.options.gate_brier_epsilon
    reason = f"Brier score {after:.4g}, the champion's {before:.4g}; at most {limit:.4g} is allowed"
    yield Check("brier", after <= limit, after, limit, reason)
