"""What a slide's annotation and mask mean for its tiles: where tiles may lie, and of which class each is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mhim_core.features import MppUsed, SlideView
from mhim_core.fingerprint import fingerprint, sha256
from mhim_core.slides.annotations import Annotation, bad_annotation, read_annotation
from mhim_core.slides.info import SlideInfo
from mhim_core.slides.mask import TissueMask
from mhim_core.slides.places import ChosenTiles, TilePlaces
from mhim_core.slides.raster import rasterise
from mhim_core.slides.segmenter import SegmenterFile
from mhim_core.slides.spec import TileSpec, TissueMethod
from mhim_core.types import SlideTask

_MAX_OUTSIDE = 0.01
"""Share of the slide's side by which a region may reach over its edge: a hand does, another slide's goes further."""
_MIN_CLASS_SHARE = 0.5


class RegionFiles(NamedTuple):
    """What a slide needs beside itself, such as the contents of its annotation and of its mask; None: there is none."""

    annotation: bytes | None = None
    mask: bytes | None = None
    segmenter: SegmenterFile | None = None
    """The file of tissue=file, the same for all slides."""
    places: TilePlaces | None = None
    """Where its tiles lie, of a spec whose tiles are placed."""
    chosen: ChosenTiles | None = None
    """Which of its tiles are embedded, of a spec that selects; None also where that is not needed yet."""
    chosen_by: str = ""
    """Digest of what decides that for this slide."""


NO_FILES = RegionFiles()


@dataclass(frozen=True, kw_only=True, eq=False)
class SlideRegions:
    """A slide's annotation and mask as far as a tile spec uses them."""

    annotation: Annotation | None = None
    mask: bytes | None = None
    segmenter: SegmenterFile | None = None
    places: TilePlaces | None = None
    chosen: ChosenTiles | None = None
    digest: str = ""
    """Of all that decides this slide's tiles beside itself; empty: the spec uses nothing, or the slide has none."""


NO_REGIONS = SlideRegions()


def slide_regions(files: RegionFiles, spec: TileSpec) -> SlideRegions:
    """Parse what the spec uses. Raises SlideError(bad_annotation)."""
    annotation = mask = None
    digests = {}
    if spec.uses_annotations and files.annotation is not None:
        annotation = read_annotation(files.annotation)
        digests["annotation"] = annotation.digest(None if spec.tile_classes else {*spec.roi, *spec.exclude})
    if spec.tissue is TissueMethod.mask and files.mask is not None:
        mask = files.mask
        digests["mask"] = sha256(mask)
    places = files.places if spec.placed else None
    if places is not None:
        digests["places"] = places.digest
    chosen = files.chosen if spec.selects else None
    if spec.selects and files.chosen_by:
        digests["chosen_by"] = files.chosen_by
    return SlideRegions(
        annotation=annotation,
        mask=mask,
        segmenter=files.segmenter,
        places=places,
        chosen=chosen,
        digest=fingerprint(digests) if digests else "",
    )


def task_regions(task: SlideTask, files: RegionFiles, spec: TileSpec) -> SlideRegions:
    """As `slide_regions`. Raises SlideError(bad_annotation) also where they are not what the task was made with."""
    regions = slide_regions(files, spec)
    if regions.digest != task.regions:
        raise bad_annotation("its annotation, mask or coordinates have changed since the run began; run again")
    return regions


class RegionMasks(NamedTuple):
    """A slide's regions at the tissue mask's µm/px."""

    inside: TissueMask | None
    """Inside `roi` and outside `exclude`; None: everywhere."""
    classes: Mapping[str, TissueMask]
    """The regions of each class that the spec names or, with tile_classes, of every class."""


EVERYWHERE = RegionMasks(None, {})
"""Of a slide whose tiles depend on no annotation."""


def region_masks(
    annotation: Annotation | None, info: SlideInfo, mpp: MppUsed, tissue: TissueMask, spec: TileSpec
) -> RegionMasks:
    """The regions as pixels, on the grid of the tissue's mask.

    A slide without an annotation has tiles everywhere: whether that may be is settled before it is opened. Raises
    SlideError(bad_annotation) where a region lies outside the slide, or one of `roi` or `exclude` encloses nothing.
    """
    if annotation is None:
        return EVERYWHERE
    used = {*spec.roi, *spec.exclude, *(annotation.regions if spec.tile_classes else ())}
    for name in sorted({*spec.roi, *spec.exclude} & annotation.without_area.keys()):
        raise bad_annotation(
            f"{name!r} is also drawn as a {annotation.without_area[name]}, which encloses nothing; draw an area, or "
            "give it another class"
        )
    shape = (tissue.is_tissue.shape[0], tissue.is_tissue.shape[1])
    scale = (mpp.x / tissue.mask_mpp, mpp.y / tissue.mask_mpp)
    masks = {}
    for name in sorted(used):
        polygons = annotation.regions.get(name, ())
        _check_within(name, [ring for polygon in polygons for ring in polygon.rings], info)
        masks[name] = rasterise(polygons, shape, scale)
    inside: np.ndarray | None = None
    if spec.roi or spec.exclude:
        inside = np.full(shape, not spec.roi)
        for name in spec.roi:
            inside |= masks[name]
        for name in spec.exclude:
            inside &= ~masks[name]
    return RegionMasks(
        None if inside is None else TissueMask(is_tissue=inside, mask_mpp=tissue.mask_mpp),
        {name: TissueMask(is_tissue=mask, mask_mpp=tissue.mask_mpp) for name, mask in masks.items()},
    )


def with_region_shares(view: SlideView, tissue: TissueMask, masks: RegionMasks) -> SlideView:
    """The view with the share of the tissue that lies inside, and in each class."""
    num = max(1, int(tissue.is_tissue.sum()))

    def share(mask: TissueMask) -> float:
        return round(float((mask.is_tissue & tissue.is_tissue).sum()) / num, 6)

    return view._replace(
        inside_share=None if masks.inside is None else share(masks.inside),
        class_shares={name: share(mask) for name, mask in masks.classes.items()} or None,
    )


def tile_classes(shares: Mapping[str, np.ndarray], masks: Mapping[str, TissueMask], num_tiles: int) -> np.ndarray:
    """object (N,): of each tile the class that covers half of it or more; of several the one smaller on the slide.

    `shares`: by class, float (N,). Regions within regions are thus told apart: tumour drawn inside a larger outline of
    tissue is tumour. "" where no class covers half.
    """
    named = np.full(num_tiles, "", object)
    for name in sorted(shares, key=lambda name: (-masks[name].area_um2, name)):
        named[shares[name] >= _MIN_CLASS_SHARE] = name
    return named


def _check_within(name: str, rings: list[np.ndarray], info: SlideInfo) -> None:
    if not rings:
        return
    least = np.min([ring.min(axis=0) for ring in rings], axis=0)
    most = np.max([ring.max(axis=0) for ring in rings], axis=0)
    size = np.array([info.width_l0_px, info.height_l0_px])
    if (least < -_MAX_OUTSIDE * size).any() or (most > (1 + _MAX_OUTSIDE) * size).any():
        x, y = most if (most > size).any() else least
        raise bad_annotation(
            f"{name!r} reaches to ({x:.0f}, {y:.0f}), and the slide has {size[0]} × {size[1]} pixels; is the "
            "annotation of another slide, or not in level-0 pixels?"
        )
