"""Was the challenger trained on patients or slides of the holdout?"""

from collections.abc import Iterator

from mhim_core.registry.checks import register_check
from mhim_core.registry.contest import Check, Contest


@register_check("holdout_unseen", subject="models", order=50)
def check_holdout_unseen(contest: Contest) -> Iterator[Check]:
    """The number of holdout patients and slides among the challenger's training data."""
    holdout = contest.holdout
    patients, slides = holdout.known_to(contest.challenger.card.trained_on)
    reason = f"{patients} of {len(holdout.patients)} holdout patients and {slides} of {len(holdout.sources)} slides"
    yield Check("holdout_unseen", not patients + slides, patients + slides, 0, f"{reason} were trained on")
