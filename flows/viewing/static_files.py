"""The pages' own files, read once: what is not among them cannot be asked for."""

import mimetypes
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import NamedTuple

from mhim_core.fingerprint import sha256

INDEX = "index.html"


class StaticFile(NamedTuple):
    """A file of the package."""

    data: bytes
    media_type: str
    etag: str


@cache
def static_files() -> dict[str, StaticFile]:
    """By path below static/."""
    return dict(_below(files("flows.viewing") / "static", ""))


def _below(folder: Traversable, prefix: str) -> "list[tuple[str, StaticFile]]":
    found = []
    for item in folder.iterdir():
        path = f"{prefix}{item.name}"
        if item.is_dir():
            found += _below(item, f"{path}/")
        else:
            data = item.read_bytes()
            media_type = mimetypes.guess_type(path)[0] or "application/octet-stream"
            found.append((path, StaticFile(data, media_type, f'"{sha256(data)[:16]}"')))
    return found
