"""Is the challenger right about every bag of the never-miss list?"""

from collections.abc import Iterator

from mhim_core.evaluation.held_out import HeldOut
from mhim_core.registry.checks import register_check
from mhim_core.registry.contest import Check, Contest, listed
from mhim_core.registry.ensemble import decide
from mhim_core.registry.figures import Contender, is_finite
from mhim_core.task import ClassTarget


@register_check("never_miss", subject="performance", order=40)
def check_never_miss(contest: Contest) -> Iterator[Check]:
    """The number of bags of the list that are wrong at the model's own threshold, or not predicted."""
    challenger, bags = contest.challenger, contest.options.never_miss
    card = challenger.card
    if not bags:
        yield Check("never_miss", True, 0, 0, "the list is empty")
        return
    if not card.classes:
        yield Check("never_miss", False, None, 0, f"a {card.task.kind} has no classes to be correct about")
        return
    rows = {row.bag_id: row for row in (*challenger.rows, *contest.never_miss_rows)}
    absent = [bag for bag in bags if bag not in rows]
    missed = [bag for bag in bags if bag in rows and not _is_right(challenger, rows[bag])]
    num_wrong = len(absent) + len(missed)
    parts = [f"{len(bags) - num_wrong} of {len(bags)} right"]
    names_slides = card.unit != "patient"
    for words, wrong in (("wrong", missed), ("not predicted, or without a label", absent)):
        if wrong:
            parts.append(f"{words}: {listed(wrong) if names_slides else f'{len(wrong)} patients'}")
    yield Check("never_miss", not num_wrong, num_wrong, 0, "; ".join(parts))


def _is_right(challenger: Contender, row: HeldOut) -> bool:
    if not is_finite([row]) or not isinstance(row.target, ClassTarget):
        return False
    return decide(row.probabilities, challenger.card) == row.target.class_index
