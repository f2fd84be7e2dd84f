"""Places that move together: a project's folder may be renamed, copied, or handed to someone else.

A place is an absolute folder or file, or `s3://bucket/key`. What is recorded beside its place relative to the record's
own stays true when both move.
"""

import posixpath
from collections.abc import Iterator
from typing import NamedTuple


class _Parts(NamedTuple):
    root: str
    """`/`, or `s3://bucket/`: what no relative place leads out of."""
    path: str
    """Absolute, below the root."""


def relative_place(place: str, base: str) -> str | None:
    """`place` as seen from the folder `base`, such as `../features`; None where they share no folder but the root."""
    parts, base_parts = _parts(place), _parts(base)
    if parts.root != base_parts.root or not _common(parts.path, base_parts.path):
        return None
    return posixpath.relpath(parts.path, base_parts.path)


def join_place(base: str, relative: str) -> str:
    """The place that `relative` means as seen from the folder `base`."""
    root, path = _parts(base)
    return root + posixpath.normpath(posixpath.join(path, relative)).lstrip("/")


def is_relative(place: str) -> bool:
    return "://" not in place and not place.startswith("/")


def moved_along(place: str, base_before: str, base_now: str) -> str | None:
    """Where `place` lies if it moved together with a folder that was `base_before`; None where they share no folder."""
    relative = relative_place(place, base_before)
    return None if relative is None else join_place(base_now, relative)


def nearby_places(place: str, base: str) -> Iterator[str]:
    """Where `place` may lie if it moved together with `base`, whose old place is unknown: the nearest first.

    Its last folders, at most three, below each of the five folders above `base`. Raises nothing; each is a guess, to be
    checked by content.
    """
    root, path = _parts(base)
    names = _parts(place).path.strip("/").split("/")
    for _ in range(5):
        if path == "/":
            return
        path = posixpath.dirname(path)
        for number in range(1, min(3, len(names)) + 1):
            yield root + posixpath.join(path, *names[-number:]).lstrip("/")


def _parts(place: str) -> _Parts:
    scheme, separator, rest = place.partition("://")
    if not separator:
        return _Parts("/", posixpath.normpath(place))
    bucket, _, key = rest.partition("/")
    return _Parts(f"{scheme}://{bucket}/", posixpath.normpath(f"/{key}"))


def _common(first: str, second: str) -> bool:
    """Do they lie in one folder below the root?"""
    return first.split("/")[1] == second.split("/")[1] != ""
