"""Makes a slide available where it is decoded: copies it from an object store, and checks its sha256.

Runs in the decoder's child process, without torch, and is the only part of its work that may be silent for long.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from cluster.decoding import AtHand
from cluster.region_files import region_files
from cluster.storage import download, object_hint
from mhim_core.embed.decode import decode_slide
from mhim_core.embed.facts import PlanFacts
from mhim_core.errors import NotFoundError, SlideError, StorageError
from mhim_core.features import SourceHint
from mhim_core.slides.reader import TileBatch
from mhim_core.slides.segmenter import SegmenterFile
from mhim_core.slides.source_identity import check_sha256, source_hint
from mhim_core.slides.spec import SlidePolicy, TileSpec
from mhim_core.slides.staging import staged, sweep_staged
from mhim_core.types import FailureReason, SlideTask

STAGING_TIMEOUT_S = 3600.0
"""How long a slide may take to be at hand: 10 GB at 3 MB/s. A store that stops answering is given up much sooner, by
its client; this ends what nothing else bounds, such as a hash over a file system that hangs."""


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


@contextmanager
def at_hand(task: SlideTask, staging_dir: str | None) -> Iterator[SlideAtHand]:
    """The task's slide on this machine while the block runs; a copy goes with it.

    Raises SlideError alone: as `staged` and `check_sha256`, STORAGE or NOT_FOUND also for what the block raises.
    """
    try:
        hint = object_hint(task.uri) if "://" in task.uri else source_hint(task.uri)
        with staged(task.uri, download, staging_dir, hint.num_bytes) as path:
            digest = check_sha256(path, task.sha256)
            yield SlideAtHand(path, hint, task._replace(sha256=None), digest)
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
) -> Iterator[AtHand | PlanFacts | TileBatch]:
    """The marker that the slide is at hand, then what `decode_slide` yields. Raises SlideError."""
    with at_hand(task, staging_dir) as slide:
        yield AtHand()
        files = region_files(task, segmenter)
        for item in decode_slide(slide.path, slide.task, slide.hint, spec=spec, policy=policy, files=files):
            yield item.with_sha256(slide.sha256) if isinstance(item, PlanFacts) else item
