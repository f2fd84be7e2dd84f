"""Decoders that copy a remote slide and then misbehave. A module of its own: its imports take a second in a child."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from toy_decoders import FAULTS

from cluster.decoding import AtHand
from cluster.staging import at_hand
from mhim_core.types import SlideTask


class Copy(NamedTuple):
    """A remote slide that is copied, told of, and then held until the fault."""

    task: SlideTask
    staging_dir: str
    fault: str = ""


def decode_copy(copy: Copy) -> Iterator[Any]:
    with at_hand(copy.task, copy.staging_dir) as slide:
        yield AtHand()
        yield str(slide.path), slide.path.stat().st_size
        if copy.fault:
            FAULTS[copy.fault]()
