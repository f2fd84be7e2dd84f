"""Was the champion trained on the holdout? One that bypassed the gate may have been."""

from collections.abc import Iterator

from mhim_core.registry.checks import register_check
from mhim_core.registry.contest import Check, Contest


@register_check("champion_unseen", subject="models", order=70)
def check_champion_unseen(contest: Contest) -> Iterator[Check]:
    """A note that refuses nothing. None without a champion, or where it has not seen the holdout."""
    if contest.champion is None:
        return
    holdout = contest.holdout
    patients, slides = holdout.known_to(contest.champion.card.trained_on)
    if patients + slides:
        reason = (
            f"the champion was trained on {patients} of {len(holdout.patients)} holdout patients and {slides} of "
            f"{len(holdout.sources)} slides: its figures are too good, and the challenger has to match them"
        )
        yield Check("champion_unseen", None, patients + slides, 0, reason)
