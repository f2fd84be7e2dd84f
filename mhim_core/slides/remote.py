"""How slides of an object store are read: never part of an identity.

Standard library only: the command line reads this.
"""

from dataclasses import dataclass
from enum import StrEnum


class RemoteReads(StrEnum):
    """What of a remote slide is fetched."""

    auto = "auto"
    copy = "copy"
    ranges = "ranges"


@dataclass(frozen=True, kw_only=True)
class RemoteOptions:
    """How a node reads slides at `s3://`."""

    reads: RemoteReads = RemoteReads.auto
    cache_bytes: int = 0
    """What may be kept on the node's disk for whoever reads the same slide next; 0: nothing."""


DEFAULT = RemoteOptions()
