"""Is every prediction a number?"""

from collections.abc import Iterator

from mhim_core.registry.checks import register_check
from mhim_core.registry.contest import Check, Contest
from mhim_core.registry.figures import is_finite


@register_check("finite", subject="predictions", order=20)
def check_finite(contest: Contest) -> Iterator[Check]:
    """Of both models."""
    wrong = [
        f"{sum(not is_finite([row]) for row in contender.rows)} of the {role}'s"
        for role, contender in (("champion", contest.champion), ("challenger", contest.challenger))
        if contender is not None and not is_finite(contender.rows)
    ]
    if wrong:
        yield Check("finite", False, None, None, f"{' and '.join(wrong)} predictions are NaN or infinite")
    else:
        yield Check("finite", True, None, None, "every prediction is a number")
