"""Makes a slide available where it is decoded: fetches it from an object store, and checks its sha256.

Runs in the decoder's child process, without torch, and is the only part of its work that may be silent for long.
A slide of an object store lies in a temporary folder while it is read, whole or as a file that is fetched by ranges
(`slides/ranged_file.py`), or in the node's cache (`slides/slide_cache.py`).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from cluster.decoding import AtHand
from cluster.object_ranges import ObjectChangedError, read_object_part
from cluster.region_files import region_files
from cluster.slide_objects import SlideObject, slide_objects
from cluster.storage import object_hint
from cluster.tile_selection import TileSelection
from mhim_core.embed.decode import decode_slide
from mhim_core.embed.facts import PlanFacts
from mhim_core.errors import NotFoundError, SlideError, StorageError
from mhim_core.features import SourceHint
from mhim_core.fingerprint import fingerprint
from mhim_core.slides.ranged_file import RangedFile
from mhim_core.slides.ranged_header import fetch_header
from mhim_core.slides.reader import TileBatch
from mhim_core.slides.remote import DEFAULT, RemoteOptions, RemoteReads
from mhim_core.slides.segmenter import SegmenterFile
from mhim_core.slides.slide_cache import SlideCache, is_cache_made
from mhim_core.slides.source_identity import check_sha256, source_hint
from mhim_core.slides.spec import AUTO, DIRECT, SlidePolicy, TileSpec
from mhim_core.slides.staging import staged, sweep_staged
from mhim_core.types import FailureReason, SlideTask

STAGING_TIMEOUT_S = 3600.0
"""How long a slide may take to be at hand: 10 GB at 3 MB/s. A store that stops answering is given up much sooner, by
its client; this ends what nothing else bounds, such as a hash over a file system that hangs."""
_LEAST_RANGED_BYTES = 2**20
"""Below it a whole copy is a single short request."""


def staging_sweep(staging_dir: str | None) -> Callable[[int], object]:
    """What a decoder that stages slides does once a child of it is dead, `Decoder`'s `sweep`.

    What earlier runs have left there goes at once.
    """
    sweep_staged(staging_dir)
    return partial(sweep_staged, staging_dir)


class SlideAtHand(NamedTuple):
    """A local file, what it is known by, and what is left to do with it."""

    path: Path
    hint: SourceHint
    task: SlideTask
    """Without a sha256, so that the whole file is not read once more."""
    sha256: str
    """The file's, checked; "" where the cohort table names none."""
    ranged: RangedFile | None = None
    """The file, where it is fetched by ranges; None: all of it is there."""


def remote_for(remote: RemoteOptions, backend: str) -> RemoteOptions:
    """Without ranges for a backend that does not say what it is about to read."""
    return remote if backend in (AUTO, DIRECT) else replace(remote, reads=RemoteReads.copy)


@contextmanager
def at_hand(task: SlideTask, staging_dir: str | None, remote: RemoteOptions = DEFAULT) -> Iterator[SlideAtHand]:
    """The task's slide on this machine while the block runs; a copy goes with it.

    Raises SlideError alone: as `staged` and `check_sha256`, STORAGE, NOT_FOUND or READ (an object that changed) also
    for what the block raises.
    """
    try:
        hint = object_hint(task.uri) if "://" in task.uri else source_hint(task.uri)
        with _local(task, hint, staging_dir, remote) as (path, ranged):
            digest = check_sha256(path, task.sha256)
            yield SlideAtHand(path, hint, task._replace(sha256=None), digest, ranged)
    except ObjectChangedError as error:
        raise SlideError(FailureReason.READ, str(error)) from error
    except NotFoundError as error:
        raise SlideError(FailureReason.NOT_FOUND, str(error)) from error
    except StorageError as error:
        raise SlideError(FailureReason.STORAGE, str(error)) from error


def decode_staged(
    task: SlideTask,
    *,
    spec: TileSpec,
    policy: SlidePolicy,
    staging_dir: str | None,
    segmenter: SegmenterFile | None = None,
    remote: RemoteOptions = DEFAULT,
    tile_size_l0_px: int | None = None,
    selection: TileSelection | None = None,
) -> Iterator[AtHand | PlanFacts | TileBatch]:
    """The marker that the slide is at hand, then what `decode_slide` yields. Raises SlideError."""
    with at_hand(task, staging_dir, remote_for(remote, spec.backend)) as slide:
        yield AtHand()
        files = region_files(task, segmenter, tile_size_l0_px, selection)
        for item in decode_slide(
            slide.path, slide.task, slide.hint, spec=spec, policy=policy, files=files, ranged=slide.ranged
        ):
            yield item.with_sha256(slide.sha256) if isinstance(item, PlanFacts) else item


class _Local(NamedTuple):
    path: Path
    ranged: RangedFile | None


@contextmanager
def _local(task: SlideTask, hint: SourceHint, staging_dir: str | None, remote: RemoteOptions) -> Iterator[_Local]:
    if "://" not in task.uri:
        yield _Local(Path(task.uri), None)
        return
    objects = slide_objects(hint)
    num_bytes = sum(part.hint.num_bytes for part in objects)
    is_ranged = (
        remote.reads is not RemoteReads.copy
        and task.sha256 is None
        and len(objects) == 1
        and (remote.reads is RemoteReads.ranges or num_bytes >= _LEAST_RANGED_BYTES)
    )
    if remote.cache_bytes and remote.reads is not RemoteReads.ranges:
        cache = SlideCache(staging_dir, remote.cache_bytes)
        with cache.held(fingerprint([part.hint for part in objects]), num_bytes, partial(_copy, objects)) as folder:
            if folder is not None:
                yield _Local(folder / objects[0].name, None)
                return
    elif is_cache_made(staging_dir):
        with suppress(OSError, SlideError):  # what an earlier command kept gives way
            SlideCache(staging_dir, 0).make_room(num_bytes)
    opening = _Opening(objects, is_ranged)
    # closed before its folder goes, and also where it is never handed out
    with closing(opening), staged(task.uri, opening, staging_dir, num_bytes) as path, closing(opening):
        yield _Local(path, opening.ranged)


class _Opening:
    """Fetches a slide's objects into a folder, of a file that is read by ranges what comes before its pixels."""

    def __init__(self, objects: Sequence[SlideObject], is_ranged: bool) -> None:
        self._objects = objects
        self._is_ranged = is_ranged
        self.ranged: RangedFile | None = None

    def __call__(self, uri: str, path: Path) -> None:
        self.close()  # of an earlier try
        if self._is_ranged:
            self.ranged = _new_file(self._objects[0], path)
            if fetch_header(self.ranged):
                return
            self.ranged.complete()
            self.close()
        else:
            _copy(self._objects, path.parent)

    def close(self) -> None:
        if self.ranged is not None:
            self.ranged.close()
        self.ranged = None


def _copy(objects: Sequence[SlideObject], folder: Path) -> None:
    for part in objects:
        with closing(_new_file(part, folder / part.name)) as file:
            file.complete()


def _new_file(part: SlideObject, path: Path) -> RangedFile:
    path.parent.mkdir(parents=True, exist_ok=True)
    return RangedFile(path, part.hint.num_bytes, partial(read_object_part, part.hint))
