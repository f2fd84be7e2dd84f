"""Did both models predict every bag of the holdout, once, against the same target?"""

from collections.abc import Iterator

from mhim_core.evaluation.held_out import bag_differences
from mhim_core.registry.checks import register_check
from mhim_core.registry.contest import Check, Contest

NAME = "holdout_predicted"


@register_check("holdout_predicted", subject="predictions", order=10)
def check_holdout_predicted(contest: Contest) -> Iterator[Check]:
    """The number of predictions, against that of the holdout's bags."""
    champion, challenger, holdout = contest.champion, contest.challenger, contest.holdout
    by_patient = challenger.card.unit == "patient"
    wanted = set(holdout.patients) if by_patient else {slide.slide_id for slide in holdout.slides}
    bags = [row.bag_id for row in challenger.rows]
    if sorted(bags) != sorted(wanted):
        reason = f"{len(set(bags) & wanted)} of {len(wanted)} bags of the holdout, and {len(set(bags) - wanted)} others"
        yield Check(NAME, False, len(bags), len(wanted), f"the challenger predicts {reason}")
        return
    if champion is not None:
        first, second = ({row.bag_id: row for row in contender.rows} for contender in (champion, challenger))
        if bag_differences("the champion", first, "the challenger", second) or len(first) != len(champion.rows):
            reason = "champion and challenger were not given the same bags and targets"
            yield Check(NAME, False, len(champion.rows), len(wanted), reason)
            return
    yield Check(NAME, True, len(bags), len(wanted), f"all {len(bags)} bags of the holdout")
