"""One slide from file to features, in one process: what the distributed embedding does, without its plumbing."""

from collections.abc import Sequence
from pathlib import Path

from mhim_core.embed.encoder import TileEncoder
from mhim_core.embed.facts import plan_facts
from mhim_core.embed.slide_encoder import SlideEncoder
from mhim_core.features import SlideFeatures
from mhim_core.slides.places import check_chosen
from mhim_core.slides.prepare import prepare_slide
from mhim_core.slides.regions import NO_FILES, RegionFiles, slide_regions
from mhim_core.slides.source_identity import check_sha256, source_hint, source_identity
from mhim_core.slides.spec import SlidePolicy, TileSpec
from mhim_core.types import SlideTask


def embed_slide(
    task: SlideTask,
    encoders: Sequence[TileEncoder],
    *,
    spec: TileSpec,
    policy: SlidePolicy,
    path: str | Path | None = None,
    files: RegionFiles = NO_FILES,
) -> list[SlideFeatures]:
    """The features of one slide, one per encoder in their order; N = 0 rows if it has no tissue.

    `path`: where a remote slide was staged; None: the task's own local path. `files`: the contents of its annotation
    and mask, where `spec` uses them. Raises SlideError for anything that is the slide's fault, EncoderError for an
    encoder's.
    """
    path = Path(task.uri if path is None else path)
    source_sha256 = check_sha256(path, task.sha256)
    source, hint = source_identity(path), source_hint(path)._replace(uri=task.uri)
    regions = slide_regions(files, spec)
    with prepare_slide(path, mpp_override=task.mpp_override, spec=spec, policy=policy, regions=regions) as prepared:
        if regions.chosen is not None:
            check_chosen(regions.chosen, source, prepared.mpp)
        facts = plan_facts(task.slide_id, prepared, spec, source, hint, source_sha256, regions.digest)
        return SlideEncoder(encoders)(prepared.tiles(), facts)
