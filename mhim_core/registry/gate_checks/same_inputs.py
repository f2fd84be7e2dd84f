"""Do both models predict the same from the same features?"""

from collections.abc import Iterator

from mhim_core.registry.checks import register_check
from mhim_core.registry.contest import Check, Contest


@register_check("same_inputs", subject="models", order=20)
def check_same_inputs(contest: Contest) -> Iterator[Check]:
    """Tile encoder, tiling, and task with its unit, a check each. None without a champion."""
    if contest.champion is None:
        return
    before, after = contest.champion.card, contest.challenger.card
    for name, noun, same in (
        ("same_encoder", "tile encoder", before.encoder_identity == after.encoder_identity),
        ("same_tiling", "tiling", before.tiling == after.tiling),
        ("same_task", "task", (before.task, before.unit) == (after.task, after.unit)),
    ):
        yield Check(name, same, None, None, f"{'the same' if same else 'another'} {noun}")
