"""What the gate checks besides the figures: the two cards, the holdout, and whether predictions can be compared."""

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from mhim_core.evaluation.held_out import HeldOut, Rows, bag_differences
from mhim_core.registry.changes import changes
from mhim_core.registry.ensemble import decide
from mhim_core.registry.figures import Contender, is_finite
from mhim_core.registry.gate_options import GateOptions
from mhim_core.registry.holdout import Holdout
from mhim_core.task import ClassTarget

_MAX_LISTED = 10


class Check(NamedTuple):
    """One condition and its outcome."""

    name: str
    passed: bool | None
    """None: it could not be made, and refuses nothing."""
    found: float | None
    """The number that was compared, where there is one."""
    limit: float | None
    """With what."""
    reason: str
    """A sentence, in either case. It names no patient."""


def check_identity(champion: Contender, challenger: Contender, options: GateOptions) -> Iterator[Check]:
    """What must be the same, and what must not."""
    before, after = champion.card, challenger.card
    logits = [{row.bag_id: row.logits for row in contender.rows} for contender in (champion, challenger)]
    if before.version == after.version:
        yield Check("new_model", False, None, None, "the challenger is the champion itself")
    elif logits[0] == logits[1]:
        yield Check("new_model", False, None, None, "its predictions of the holdout are the champion's, every one")
    else:
        yield Check("new_model", True, None, None, "another model, with other predictions")
    for name, what, same in (
        ("same_encoder", "tile encoder", before.encoder_identity == after.encoder_identity),
        ("same_tiling", "tiling", before.tiling == after.tiling),
        ("same_task", "task", (before.task, before.unit) == (after.task, after.unit)),
    ):
        yield Check(name, same, None, None, f"{'the same' if same else 'another'} {what}")
    changed = changes(before, after)
    if undeclared := [change for change in changed if change.key not in options.may_change]:
        listed = ", ".join(change.words for change in undeclared)
        reason = f"changed and not declared in may_change: {listed}"
        yield Check("declared_changes", False, len(undeclared), 0, reason)
    else:
        listed = ", ".join(change.key for change in changed) or "nothing"
        yield Check("declared_changes", True, 0, 0, f"changed, as declared: {listed}")


def check_not_withdrawn(challenger: Contender, withdrawn: Collection[str]) -> Check:
    if challenger.card.version in withdrawn:
        reason = "this very model was rolled back; only mhim model promote brings it back"
        return Check("not_withdrawn", False, None, None, reason)
    return Check("not_withdrawn", True, None, None, "it was never rolled back")


def check_holdout(challenger: Contender, holdout: Holdout, holdout_changes: Sequence[str]) -> Iterator[Check]:
    """The holdout is unchanged, and the challenger was not trained on it."""
    patients, slides = holdout.known_to(challenger.card.trained_on)
    reason = f"{patients} of {len(holdout.patients)} holdout patients and {slides} of {len(holdout.sources)} slides"
    yield Check("holdout_unseen", not patients + slides, patients + slides, 0, f"{reason} were trained on")
    if holdout_changes:
        reason = f"{len(holdout_changes)} holdout slides are not as they were frozen: {_listed(holdout_changes)}"
        yield Check("holdout_unchanged", False, len(holdout_changes), 0, reason)
    else:
        reason = f"all {len(holdout.slides)} holdout slides are as they were frozen"
        yield Check("holdout_unchanged", True, 0, 0, reason)


def check_champion(champion: Contender, holdout: Holdout) -> Iterator[Check]:
    """No check where the champion has not seen the holdout; one that bypassed the gate may have been trained on it."""
    patients, slides = holdout.known_to(champion.card.trained_on)
    if patients + slides:
        reason = (
            f"the champion was trained on {patients} of {len(holdout.patients)} holdout patients and {slides} of "
            f"{len(holdout.sources)} slides: its figures flatter it, and a challenger is held against them"
        )
        yield Check("champion_unseen", None, patients + slides, 0, reason)


def check_predicted(champion: Contender | None, challenger: Contender, holdout: Holdout) -> Check:
    """Every bag of the holdout, once, by both, with the same target."""
    by_patient = challenger.card.unit == "patient"
    wanted = set(holdout.patients) if by_patient else {slide.slide_id for slide in holdout.slides}
    bags = [row.bag_id for row in challenger.rows]
    if sorted(bags) != sorted(wanted):
        reason = f"{len(set(bags) & wanted)} of {len(wanted)} bags of the holdout, and {len(set(bags) - wanted)} others"
        return Check("holdout_predicted", False, len(bags), len(wanted), f"the challenger predicts {reason}")
    if champion is not None:
        known = ({row.bag_id: row for row in contender.rows} for contender in (champion, challenger))
        first, second = known
        if bag_differences("the champion", first, "the challenger", second) or len(first) != len(champion.rows):
            reason = "champion and challenger were not given the same bags and targets"
            return Check("holdout_predicted", False, len(champion.rows), len(wanted), reason)
    return Check("holdout_predicted", True, len(bags), len(wanted), f"all {len(bags)} bags of the holdout")


def check_finite(champion: Contender | None, challenger: Contender) -> Check:
    wrong = [
        f"{sum(not is_finite([row]) for row in contender.rows)} of the {role}'s"
        for role, contender in (("champion", champion), ("challenger", challenger))
        if contender is not None and not is_finite(contender.rows)
    ]
    if wrong:
        return Check("finite", False, None, None, f"{' and '.join(wrong)} predictions are NaN or infinite")
    return Check("finite", True, None, None, "every prediction is a number")


def check_never_miss(challenger: Contender, rows: Rows, options: GateOptions) -> Check:
    """Every bag of the list, decided by the model's own threshold."""
    wanted, card = options.never_miss, challenger.card
    if not wanted:
        return Check("never_miss", True, 0, 0, "the list is empty")
    if not card.classes:
        return Check("never_miss", False, None, 0, f"a {card.task.kind} has no classes to be correct about")
    known = {row.bag_id: row for row in rows}
    absent = [bag for bag in wanted if bag not in known]
    missed = [bag for bag in wanted if bag in known and not _is_right(challenger, known[bag])]
    num_wrong = len(absent) + len(missed)
    parts = [f"{len(wanted) - num_wrong} of {len(wanted)} right"]
    names_slides = card.unit != "patient"
    for what, bags in (("wrong", missed), ("not predicted, or without a label", absent)):
        if bags:
            parts.append(f"{what}: {_listed(bags) if names_slides else f'{len(bags)} patients'}")
    return Check("never_miss", not num_wrong, num_wrong, 0, "; ".join(parts))


def _is_right(challenger: Contender, row: HeldOut) -> bool:
    if not is_finite([row]) or not isinstance(row.target, ClassTarget):
        return False
    return decide(row.probabilities, challenger.card) == row.target.class_index


def _listed(names: Sequence[str]) -> str:
    return "; ".join(names[:_MAX_LISTED]) + (
        f"; and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    )
