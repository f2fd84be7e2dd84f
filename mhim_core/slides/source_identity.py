"""Which bytes a slide is: a digest of sampled blocks, cheap enough for 100,000 slides, and the checks around it."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mhim_core.errors import SlideError
from mhim_core.features import SourceHint, SourceIdentity
from mhim_core.slides.folder_identity import folder_files, folder_identity
from mhim_core.slides.ngff import is_zarr
from mhim_core.types import FailureReason

_BLOCK_BYTES = 65_536
_NUM_MIDDLE_BLOCKS = 8


class Block(NamedTuple):
    """Bytes of a file."""

    offset: int
    num_bytes: int


def source_identity(path: str | Path) -> SourceIdentity:
    """Size and sha256 over the size, the first and last 64 KiB and eight evenly placed 64 KiB blocks.

    Never path or mtime: a moved or touched file is the same source, a re-scanned one is new. Reads at most 640 KiB.
    Of a slide that is a folder: `folder_identity`. Raises SlideError: NOT_FOUND, OPEN.
    """
    path = Path(path)
    try:
        if is_folder_slide(path):
            return folder_identity(path)
        num_bytes = _size(path)
        with path.open("rb") as file:

            def read(offset: int, length: int) -> bytes:
                file.seek(offset)
                return file.read(length)

            return identity_of(num_bytes, read)
    except OSError as error:
        raise SlideError(FailureReason.OPEN, f"the slide file cannot be read: {error.strerror}") from error


def identity_of(num_bytes: int, read: Callable[[int, int], bytes]) -> SourceIdentity:
    """The same identity through any ranged read(offset, length), such as an object store's GET."""
    digest = hashlib.sha256(str(num_bytes).encode())
    for block in identity_blocks(num_bytes):
        digest.update(read(*block))
    return SourceIdentity(num_bytes, digest.hexdigest())


def identity_blocks(num_bytes: int) -> list[Block]:
    """What is read for the identity of a file of so many bytes; the last may pass the file's end."""
    last = max(0, num_bytes - _BLOCK_BYTES)
    offsets = {last * i // (_NUM_MIDDLE_BLOCKS + 1) for i in range(_NUM_MIDDLE_BLOCKS + 2)}
    return [Block(offset, _BLOCK_BYTES) for offset in sorted(offsets)]


def source_hint(path: str | Path) -> SourceHint:
    """Place, size and mtime of a local file; while equal, it is not read again. Raises SlideError: NOT_FOUND, OPEN.

    Of a slide that is a folder, the size of all files, and the latest mtime with their number.
    """
    path = Path(path).absolute()
    try:
        if is_folder_slide(path):
            files = folder_files(path)
            version = f"{max(file.mtime_ns for file in files)}-{len(files)}"
            return SourceHint(str(path), sum(file.num_bytes for file in files), version)
    except OSError as error:
        raise SlideError(FailureReason.OPEN, f"the slide's folder cannot be read: {error.strerror}") from error
    return SourceHint(str(path), _size(path), str(path.stat().st_mtime_ns))


def is_folder_slide(path: Path) -> bool:
    """Whether the slide is a folder that is read as one: an OME-Zarr."""
    try:
        return path.is_dir() and is_zarr(path)
    except (OSError, ValueError):
        return False


def file_sha256(path: str | Path) -> str:
    """64 hex digits over the whole file. Raises SlideError: NOT_FOUND, OPEN."""
    path = Path(path)
    _size(path)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SlideError(FailureReason.OPEN, f"the slide file cannot be read: {error.strerror}") from error


def check_sha256(path: str | Path, expected: str | None) -> str:
    """The file's sha256, verified; "" where the cohort table names none (the file is not read).

    Raises SlideError(SOURCE_HASH_MISMATCH) if the file is not the one that the table names.
    """
    if expected is None:
        return ""
    if is_folder_slide(Path(path)):
        raise SlideError(
            FailureReason.SOURCE_HASH_MISMATCH,
            "the cohort table gives a sha256, and the slide is a folder, which has none: empty the cell",
        )
    digest = file_sha256(path)
    if digest != expected.strip().lower():
        raise SlideError(
            FailureReason.SOURCE_HASH_MISMATCH,
            f"the file's sha256 is {digest} and the cohort table says {expected}; "
            "copy the slide again or correct the table",
        )
    return digest


def _size(path: Path) -> int:
    try:
        if path.is_file():
            return path.stat().st_size
    except OSError as error:
        raise SlideError(FailureReason.OPEN, f"the slide file cannot be read: {error.strerror}") from error
    raise SlideError(FailureReason.NOT_FOUND, "the slide file does not exist; check the cohort's path")
