"""A slide as a stream of picklable items: first its facts, then its tiles. Runs where a decoder may crash or hang."""

from collections.abc import Iterator
from pathlib import Path

from mhim_core.embed.facts import PlanFacts, plan_facts
from mhim_core.errors import SlideError
from mhim_core.features import SourceHint
from mhim_core.slides.places import check_chosen
from mhim_core.slides.prepare import prepare_slide
from mhim_core.slides.ranged_file import RangedFile
from mhim_core.slides.reader import TileBatch
from mhim_core.slides.regions import NO_FILES, RegionFiles, task_regions
from mhim_core.slides.source_identity import check_sha256, is_folder_slide, source_hint, source_identity
from mhim_core.slides.spec import SlidePolicy, TileSpec
from mhim_core.types import FailureReason, SlideTask

_BATCH_SIZE, _BATCH_BYTES = 32, 8 * 2**20
"""Most tiles per item, 6 MB at 256 px, and most bytes of several: at 4,096 px a tile alone has 50 MB."""


def decode_slide(
    path: Path,
    task: SlideTask,
    hint: SourceHint,
    *,
    spec: TileSpec,
    policy: SlidePolicy,
    files: RegionFiles = NO_FILES,
    ranged: RangedFile | None = None,
) -> Iterator[PlanFacts | TileBatch]:
    """One PlanFacts, then the TileBatches in plan order; `ranged` as in `open_slide`.

    `files`: the slide's annotation and mask, where `spec` uses them. Raises SlideError for anything that is the slide's
    fault: READ also where the file changed while it was read, whose tiles are then void; BAD_ANNOTATION also where
    annotation or mask are not those of the task any more.
    """
    version = _version(path)
    source_sha256 = check_sha256(path, task.sha256)
    source = source_identity(path)
    regions = task_regions(task, files, spec)
    with prepare_slide(
        path, mpp_override=task.mpp_override, spec=spec, policy=policy, regions=regions, ranged=ranged
    ) as slide:
        if regions.chosen is not None:
            check_chosen(regions.chosen, source, slide.mpp)
        yield plan_facts(task.slide_id, slide, spec, source, hint, source_sha256, regions.digest)
        num_tiles = max(1, min(_BATCH_SIZE, _BATCH_BYTES // (3 * spec.tile_px**2)))
        yield from slide.tiles(num_tiles)
    if ranged is None and _version(path) != version:  # what is fetched is all of one version
        raise SlideError(FailureReason.READ, "the slide's file changed while it was read; run again once it is whole")


def _version(path: Path) -> tuple[object, ...] | None:
    """Which file it is, its size and when it was written to; None where it is not there."""
    try:
        if is_folder_slide(path):
            return tuple(source_hint(path))
        status = path.stat()
    except (OSError, SlideError):
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
