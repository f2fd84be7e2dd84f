"""Which bytes a slide is that is a folder (OME-Zarr): a digest of its files' names and sizes, and of some of them."""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from mhim_core.features import SourceIdentity
from mhim_core.slides.ngff import METADATA_NAMES

_NUM_SAMPLES, _SAMPLE_BYTES = 32, 65_536


class FolderFile(NamedTuple):
    """A file of the folder; its name uses slashes."""

    name: str
    num_bytes: int
    mtime_ns: int


def folder_files(folder: Path) -> list[FolderFile]:
    """All files that belong to the slide, by name: hidden ones (a file manager's) do not. Raises OSError."""
    files = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") or name in METADATA_NAMES:
                path = Path(parent, name)
                status = path.stat()
                files.append(FolderFile(path.relative_to(folder).as_posix(), status.st_size, status.st_mtime_ns))
    return sorted(files)


def folder_identity(folder: Path) -> SourceIdentity:
    """Size and sha256 over the names and sizes of all files, every metadata file, and 64 KiB of 32 others.

    Of the others, evenly placed by name, the middle is taken. Reads at most 2 MiB and the metadata. Raises OSError.
    """
    files = folder_files(folder)
    num_bytes = sum(file.num_bytes for file in files)
    digest = hashlib.sha256()
    chunks = []
    for file in files:
        digest.update(f"{file.name}\0{file.num_bytes}\0".encode())
        if file.name.rpartition("/")[2] in METADATA_NAMES:
            digest.update((folder / file.name).read_bytes())
        else:
            chunks.append(file)
    last = len(chunks) - 1
    for index in sorted({last * i // (_NUM_SAMPLES - 1) for i in range(_NUM_SAMPLES)}) if chunks else ():
        with (folder / chunks[index].name).open("rb") as opened:
            opened.seek(max(0, chunks[index].num_bytes - _SAMPLE_BYTES) // 2)
            digest.update(opened.read(_SAMPLE_BYTES))
    return SourceIdentity(num_bytes, digest.hexdigest())
