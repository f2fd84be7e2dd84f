"""The differences between two models' cards, by configuration key."""

from typing import Any, NamedTuple

from mhim_core.registry.card import RegistryCard
from mhim_core.train.sections import flat_options, neutral_options

_SEED_KEYS = ("seed", "seeds")


class Change(NamedTuple):
    """One difference."""

    key: str
    """A key of mhim train, or one of `gate_options.CHANGES`."""
    before: Any
    """Plain JSON; None where only the other card has it. An option that a card leaves out has its neutral value."""
    after: Any

    @property
    def words(self) -> str:
        if self.key in ("data", "thresholds"):
            return self.key
        return f"{self.key} ({self.before} → {self.after})"


def changes(before: RegistryCard, after: RegistryCard) -> tuple[Change, ...]:
    """Of data, training keys, number of models and thresholds, by key. Encoder, tiling and task are not compared."""
    neutral = neutral_options()
    facts_before, facts_after = neutral | _facts(before), neutral | _facts(after)
    keys = sorted(key for key in {*facts_before, *facts_after} if facts_before.get(key) != facts_after.get(key))
    return tuple(Change(key, facts_before.get(key), facts_after.get(key)) for key in keys)


def _facts(card: RegistryCard) -> dict[str, Any]:
    flat = flat_options(card.recipe)
    flat.pop("scheme", None)  # how folds are made; how many models vote is `fits`
    seeds = {key: flat.pop(key) for key in _SEED_KEYS if key in flat}
    return flat | {
        "seed": seeds.get("seeds", seeds.get("seed")),
        "data": (card.trained_on.cohort, card.trained_on.feature_set, card.trained_on.manifest_sha256),
        "fits": len(card.members),
        "thresholds": [(member.temperature, member.threshold) for member in card.members],
    }
