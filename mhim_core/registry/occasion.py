"""Is a retraining due? What the champion was made from, compared with the cohort as it is now."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from mhim_core.fingerprint import canonical_json, fingerprint
from mhim_core.registry.claims import marker_key
from mhim_core.registry.differences import differences
from mhim_core.registry.snapshot import Snapshot
from mhim_core.types import SlideId


class Against(NamedTuple):
    """The champion that a challenger is judged against."""

    number: int
    """Of its promotion; 0: there is none yet."""
    version: str
    """Empty: there is none yet."""


class Occasion(NamedTuple):
    """Why there is, or is not, something to do."""

    against: Against
    data: str
    """The data fingerprint."""
    period: tuple[int, int] | None
    """Number of the champion's promotion and how many times max_age it is old, where age alone is the reason."""
    words: str
    """What is new, or why there is nothing to do."""
    embeds: bool
    """There are slides to embed."""
    trains: bool
    """And a challenger to train."""

    def marker(self, name: str) -> str:
        """The key under which it is recorded that these data were judged against this champion."""
        return marker_key(name, self.against.version, self.data, self.period)

    def inputs(self, keys: str, unlabelled: str) -> dict[str, Any]:
        """The inputs of a retraining. `unlabelled`: a digest of the unlabelled slides, for a flow that only embeds."""
        parts = {"against": self.against.version, "data": self.data, "keys": keys, "period": self.period}
        if not self.trains:
            parts = {"against": self.against.version, "data": self.data, "others": unlabelled if self.embeds else ""}
        plain: dict[str, Any] = json.loads(canonical_json(parts))
        return plain


def find_occasion(
    now: Snapshot,
    against: Against,
    origin: Mapping[str, Any],
    *,
    before: Snapshot | None,
    with_tiles: Mapping[SlideId, object],
    num_waiting: int,
    age_days: float | None = None,
    max_age_days: float | None = None,
) -> Occasion:
    """Whether there is anything to do, and why.

    `now`: the slides that may be trained on. `origin`: {data, trained} of the champion's making, empty where it was
    registered by hand; `before`: the snapshot that it names, if it is kept. `with_tiles`: the slides with features.
    `num_waiting`: unlabelled slides that are not embedded yet. `age_days` of the champion counts where `max_age_days`
    is given; once in each such period.
    """
    unlabelled = f"; {num_waiting} slides without a label are not embedded yet" if num_waiting else ""
    if now.fingerprint != origin.get("data"):
        words = differences(before, now).words or "data prepared in another way"
        return Occasion(against, now.fingerprint, None, words + unlabelled, embeds=True, trains=True)
    trained = now.of(with_tiles)
    if trained != origin.get("trained"):
        words = "slides have features now that had none when the champion was made" + unlabelled
        data = fingerprint({"data": now.fingerprint, "trained": trained})
        return Occasion(against, data, None, words, embeds=True, trains=True)
    if max_age_days is not None and age_days is not None and (times := int(age_days // max_age_days)) > 0:
        words = f"nothing new, and the champion is older than {max_age_days:g} days" + unlabelled
        return Occasion(against, now.fingerprint, (against.number, times), words, embeds=True, trains=True)
    return Occasion(against, now.fingerprint, None, f"nothing new{unlabelled}", embeds=bool(num_waiting), trains=False)
