"""A remote slide on the local disk for as long as it is read: waits for room, checks its size, removed always.

Each copy lies in a folder of its own, locked by the process that reads it (`mhim_core.temporaries`): what a killed one
leaves is swept by whoever ended it, and by the next that copies a slide to that disk.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from mhim_core.errors import NotFoundError, SlideError
from mhim_core.slides.ranged_file import NO_ROOM
from mhim_core.temporaries import PREFIX as TEMPORARY
from mhim_core.temporaries import Temporary, new_owned_folder, sweep_folders
from mhim_core.types import FailureReason

SPARE_BYTES = 256 * 1024**2
"""Room left for everyone else on the disk."""
PREFIX = "mhim-staged-"
CACHE = "mhim-slide-cache"
"""The folder of what is kept."""
MAX_WAIT_S = 1800.0
"""How long a slide waits for room that copies of others take. Each of these goes once its slide is decoded."""
_POLL_S = 1.0

Download = Callable[[str, Path], None]


@contextmanager
def staged(
    uri: str, download: Download, root: str | Path | None = None, num_bytes: int | None = None
) -> Iterator[Path]:
    """The slide as a local file: a local path as it is, an `s3://` object as a temporary copy under `root`.

    `download(uri, path)` writes the object, and into the same folder whatever else belongs to the slide; `num_bytes` is
    the size of all of it, where known; `root` None is the system's temporary folder. The copy keeps the file's suffix
    and goes at exit, on errors too. On a full disk it waits while copies of other slides lie there, MAX_WAIT_S at most.
    Raises SlideError: NO_SPACE (also of a folder that cannot be written), NOT_FOUND, STORAGE (the copy is not as long
    as the object); errors of `download` pass.
    """
    if "://" not in uri:
        yield Path(uri)
        return
    suffix = PurePosixPath(uri).suffix
    folder = _folder_with_slide(uri, f"slide{suffix}", download, _made(root), num_bytes)
    try:
        yield Path(folder.path).with_name(f"slide{suffix}")
    finally:
        _remove(folder)


def sweep_staged(root: str | Path | None = None, pid: int | None = None) -> list[Path]:
    """Remove the copies of dead processes, or those of this very one; the folders of copies that are in use.

    Those that are to be kept (`slide_cache`) as well.
    """
    folder = Path(root or tempfile.gettempdir())
    prefix, options = (PREFIX, {}) if pid is None else (f"{PREFIX}{pid}-", {"min_age_s": 0.0})
    return [copy for place in (folder, folder / CACHE) for copy in sweep_folders(place, prefix, **options)]


def _made(root: str | Path | None) -> Path:
    folder = Path(root or tempfile.gettempdir())
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error
    return folder


def _unwritable(folder: Path, error: OSError) -> SlideError:
    message = f"the staging folder {folder} cannot be written: {error.strerror}; set staging_dir= to one that can"
    return SlideError(FailureReason.NO_SPACE, message)


def _folder_with_slide(uri: str, name: str, download: Download, root: Path, num_bytes: int | None) -> Temporary:
    """The lock of a new folder that holds the slide."""
    deadline_s = time.monotonic() + MAX_WAIT_S
    while True:
        _wait_for_room(root, num_bytes, deadline_s)
        folder = _new_folder(root, num_bytes)
        try:
            _fetch(uri, Path(folder.path).with_name(name), download, num_bytes)
            return folder
        except SlideError as error:
            _remove(folder)
            # two may have begun at the same moment, of whom one finds room
            if error.reason is not FailureReason.NO_SPACE or not sweep_staged(root) or time.monotonic() > deadline_s:
                raise
            time.sleep(_POLL_S)
        except BaseException:
            _remove(folder)
            raise


def _wait_for_room(root: Path, num_bytes: int | None, deadline_s: float) -> None:
    """Raises SlideError(NO_SPACE) where there is none, and nothing that would make some, or not in time."""
    while True:
        others = sweep_staged(root)
        disk = shutil.disk_usage(root)
        free = disk.free - sum(map(num_promised, others))
        needed = (num_bytes or 0) + SPARE_BYTES
        if num_bytes is None or needed <= free:
            return
        if not others or needed > disk.total or time.monotonic() > deadline_s:
            raise SlideError(
                FailureReason.NO_SPACE,
                f"the slide has {num_bytes / 1e9:.2f} GB and the staging disk {max(0, free) / 1e9:.2f} GB free "
                f"({SPARE_BYTES / 1e9:.2f} GB are kept spare, and what {len(others)} slides still need that are being "
                "copied); free space or set another staging folder",
            )
        time.sleep(_POLL_S)


def _new_folder(root: Path, num_bytes: int | None) -> Temporary:
    try:
        return new_owned_folder(root, f"{PREFIX}{os.getpid()}-{num_bytes or 0}-")
    except OSError as error:
        raise _unwritable(root, error) from error


def num_promised(folder: Path) -> int:
    """Bytes that a copy still needs, from its folder's name; 0 where the name does not tell."""
    try:
        num_bytes = int(folder.name.removeprefix(PREFIX).split("-")[1])
        # a file has its full length before it has its bytes
        return max(0, num_bytes - sum(min(part.st_size, 512 * part.st_blocks) for part in _files_in(folder)))
    except (OSError, ValueError, IndexError):
        return 0


def _files_in(folder: Path) -> list[os.stat_result]:
    return [path.stat() for path in folder.rglob("*") if not path.name.startswith(TEMPORARY) and path.is_file()]


def num_bytes_of(folder: Path) -> int:
    """Of the files below a folder, without its lock."""
    return sum(part.st_size for part in _files_in(folder))


def _remove(folder: Temporary) -> None:
    shutil.rmtree(Path(folder.path).parent, ignore_errors=True)
    os.close(folder.descriptor)


def _fetch(uri: str, path: Path, download: Download, num_bytes: int | None) -> None:
    try:
        download(uri, path)
    except NotFoundError as error:
        raise SlideError(
            FailureReason.NOT_FOUND, "the slide's object does not exist; check the cohort's path"
        ) from error
    except OSError as error:
        if error.errno in NO_ROOM:
            raise SlideError(FailureReason.NO_SPACE, "the staging disk filled up while the slide was copied") from error
        raise
    num_staged = num_bytes_of(path.parent)
    if num_bytes is not None and num_staged != num_bytes:
        raise SlideError(
            FailureReason.STORAGE, f"the staged copy has {num_staged:,} bytes and the object {num_bytes:,}; run again"
        )
