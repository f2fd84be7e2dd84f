"""The differences between two snapshots of a cohort, in numbers of slides."""

from typing import NamedTuple

from mhim_core.registry.snapshot import Snapshot


class Differences(NamedTuple):
    """Between two snapshots, in numbers of slides."""

    new: int
    changed: int
    gone: int
    policy: bool = False
    """The policies differ."""

    @property
    def words(self) -> str:
        """`5 new slides, 1 changed`; empty: nothing differs."""
        counts = ((self.new, "new"), (self.changed, "changed"), (self.gone, "gone"))
        words = [f"{number} {change}" for number, change in counts if number]
        if words:
            words[0] += " slide" if words[0].startswith("1 ") else " slides"
        if self.policy:
            words.append("other policies of admission")
        return ", ".join(words)


def differences(before: Snapshot | None, now: Snapshot) -> Differences:
    """`before` None: everything is new."""
    if before is None:
        return Differences(len(now.slides), 0, 0)
    return Differences(
        new=len(now.slides.keys() - before.slides.keys()),
        changed=sum(now.slides.get(key, digest) != digest for key, digest in before.slides.items()),
        gone=len(before.slides.keys() - now.slides.keys()),
        policy=now.policy != before.policy,
    )
