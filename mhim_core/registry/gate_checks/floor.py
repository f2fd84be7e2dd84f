"""Is a first model good enough by itself?"""

from collections.abc import Iterator

from mhim_core.evaluation.row_metrics import metrics_of
from mhim_core.registry.checks import register_check
from mhim_core.registry.contest import NOT_COMPARED, Check, Contest


@register_check("floor", subject="performance", order=10)
def check_floor(contest: Contest) -> Iterator[Check]:
    """The metric on the holdout, against `gate_floor`. None where there is a champion to compare with."""
    if contest.champion is not None:
        return
    figures, limit = contest.figures, contest.options.gate_floor
    if figures is None:
        yield Check("floor", False, None, limit, NOT_COMPARED)
        return
    definition = metrics_of(figures.kind)[contest.metric]
    estimate = figures.estimate("challenger", contest.metric)
    if estimate.value is None:
        reason = f"{definition.title} has no value on the holdout: {estimate.reason}"
        yield Check("floor", False, None, limit, reason)
        return
    passed = estimate.value >= limit if definition.higher_is_better else estimate.value <= limit
    word = "at least" if definition.higher_is_better else "at most"
    reason = f"{definition.title} {estimate.value:.4g} on the holdout; {word} {limit:g} is required"
    yield Check("floor", passed, estimate.value, limit, reason)
