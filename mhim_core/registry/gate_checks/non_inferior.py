"""Is the challenger no worse than the champion by more than δ, overall and in every site?"""

from collections.abc import Iterator

from mhim_core.evaluation.row_metrics import metrics_of
from mhim_core.registry.checks import register_check
from mhim_core.registry.contest import NOT_COMPARED, Check, Contest
from mhim_core.registry.figures import Figures


@register_check("non_inferior", subject="performance", order=20)
def check_non_inferior(contest: Contest) -> Iterator[Check]:
    """The lower bound of the paired interval of the gain, against −δ; a check for the holdout and one for each site.

    A gain without a value refuses on the whole holdout, and not in a site. None without a champion.
    """
    if contest.champion is None:
        return
    options = contest.options
    if contest.figures is None:
        yield Check("non_inferior", False, None, -options.gate_delta, NOT_COMPARED)
    else:
        yield _compare("non_inferior", contest.figures, contest.metric, -options.gate_delta, without_value=False)
    for site, figures in contest.figures_by_site.items():
        name, limit = f"non_inferior/{site}", -options.site_delta
        if figures.num_patients < options.gate_site_patients:
            needed = f"{options.gate_site_patients} are needed to judge a site by itself"
            yield Check(name, None, None, limit, f"{figures.num_patients} holdout patients, and {needed}")
        else:
            yield _compare(name, figures, contest.metric, limit, without_value=None)


def _compare(name: str, figures: Figures, metric: str, limit: float, *, without_value: bool | None) -> Check:
    title = metrics_of(figures.kind)[metric].title
    gain = figures.gain(metric)
    if gain.value is None or gain.low is None or gain.high is None:
        reason = gain.reason or "no replicate of the bootstrap gave a value"
        return Check(name, without_value, None, limit, f"{title} has no value here: {reason}")
    reason = (
        f"{title} better by {gain.value:.4g}, interval [{gain.low:.4g}, {gain.high:.4g}] of {figures.num_patients} "
        f"patients; its lower bound must not lie below {limit:g}"
    )
    return Check(name, gain.low >= limit, gain.low, limit, reason)
