"""The annotations and masks of a cohort's slides: found, read and digested once, before anything starts."""

import difflib
import posixpath
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import NamedTuple

from cluster.region_files import region_files
from cluster.storage import open_storage
from flows.config.keys import RegionKeys
from flows.runs.cohort import CohortInput
from mhim_core.cohort.rows import CohortRow
from mhim_core.errors import ConfigError, SlideError
from mhim_core.slides import annotations, tissue_mask
from mhim_core.slides.regions import slide_regions
from mhim_core.slides.spec import TileSpec, TissueMethod
from mhim_core.store.parallel import map_all
from mhim_core.types import FailureReason, SlideId, SlideTask, Status, StatusRow

_MAX_NAMED = 10


class _Looked(NamedTuple):
    """What became of one slide's files."""

    task: SlideTask
    classes: tuple[str, ...]
    refused: StatusRow | None = None


def with_regions(
    cohort_input: CohortInput, spec: TileSpec, keys: RegionKeys, *, named_here: bool = True
) -> CohortInput:
    """The cohort with the annotation and mask of each slide, as far as the spec uses them, and their digests.

    Slides that lack what the spec needs are in `refused`. `named_here`: the user named the classes for these slides, so
    that one which none of them has is an error; false: a model did, and it may be missing in a few new slides. Raises
    ConfigError, StorageError.
    """
    if not spec.needs_files:
        if unused := [name for name in ("annotations", "masks") if getattr(keys, name)]:
            needed = {"annotations": "roi=, exclude= or tile_classes=true", "masks": "tissue=mask"}[unused[0]]
            raise ConfigError(f"{unused[0]}={getattr(keys, unused[0])} is used with {needed} only")
        return cohort_input
    rows = cohort_input.cohort.rows
    places = {
        "annotation": _places(rows, "annotation", keys.annotations, "annotations", annotations.SUFFIXES)
        if spec.uses_annotations
        else {},
        "mask": _places(rows, "mask", keys.masks, "masks", tissue_mask.SUFFIXES)
        if spec.tissue is TissueMethod.mask
        else {},
    }
    _check_any(spec, keys, places, named_here)

    def look(task: SlideTask) -> _Looked:
        annotation, mask = (places[kind].get(task.slide_id, "") for kind in ("annotation", "mask"))
        return _look(task._replace(annotation=annotation, mask=mask), spec, keys)

    looked = map_all(look, cohort_input.tasks())
    if named_here:
        _check_classes(spec, looked)
    return cohort_input._replace(
        regions={task.slide_id: task for task, _, refused in looked if refused is None},
        refused=tuple(refused for *_, refused in looked if refused is not None),
    )


def _places(
    rows: Iterable[CohortRow], column: str, folder: str, key: str, suffixes: tuple[str, ...]
) -> Mapping[SlideId, str]:
    """Where each slide's file lies: as its row says, or else in the folder, under the slide's id or file name."""
    found: dict[str, list[str]] = {}
    if folder:
        storage = open_storage(folder)
        for entry in storage.list(""):
            path = PurePosixPath(entry.key)
            if path.suffix.lower() in suffixes:
                found.setdefault(path.stem, []).append(storage.locate(entry.key))
        if not found:
            raise ConfigError(f"{key}={folder} holds no file that ends in {', '.join(suffixes)}")
    places: dict[SlideId, str] = {}
    used = set()
    for row in rows:
        stated = getattr(row, column)
        name = posixpath.basename(row.uri)
        stem = next((stem for stem in (row.slide_id, name, PurePosixPath(name).stem) if stem in found), None)
        if not stated and stem is not None:
            if len(found[stem]) > 1:
                raise ConfigError(
                    f"{key}={folder} holds several files of slide {row.slide_id}: {', '.join(found[stem])}"
                )
            stated = found[stem][0]
            used.add(stem)
        if stated:
            places[row.slide_id] = stated
    if strangers := sorted(found.keys() - used):
        listed = ", ".join(strangers[:_MAX_NAMED]) + (", …" if len(strangers) > _MAX_NAMED else "")
        print(f"note: {len(strangers)} files of {key}={folder} are named after no slide that needs them: {listed}")
    return places


def _check_any(spec: TileSpec, keys: RegionKeys, places: Mapping[str, Mapping[SlideId, str]], named_here: bool) -> None:
    is_needed = {"annotation": spec.uses_annotations, "mask": spec.tissue is TissueMethod.mask}
    for column, key in (("annotation", "annotations"), ("mask", "masks")):
        if not is_needed[column] or places[column]:
            continue
        if column == "annotation" and keys.takes_unannotated and not named_here:
            continue
        rule = "tissue=mask needs" if column == "mask" else "roi, exclude and tile_classes need"
        raise ConfigError(
            f"{rule} the slides' {column}s, and none of the slides has one: set {key}= to a folder with a file a "
            f"slide, named <slide_id> and its extension, or fill in a column {column}"
        )


def _look(task: SlideTask, spec: TileSpec, keys: RegionKeys) -> _Looked:
    lacks = []
    if spec.uses_annotations and not task.annotation and not keys.takes_unannotated:
        lacks.append("annotation (unannotated=whole takes it as it is)")
    if spec.tissue is TissueMethod.mask and not task.mask:
        lacks.append("mask")
    if lacks:
        return _refused(task, FailureReason.NO_ANNOTATION, f"the slide has no {' and no '.join(lacks)}")
    try:
        regions = slide_regions(region_files(task), spec)
    except SlideError as error:
        return _refused(task, error.reason, error.message)
    classes = () if regions.annotation is None else regions.annotation.classes
    return _Looked(task._replace(regions=regions.digest), classes)


def _refused(task: SlideTask, reason: FailureReason, message: str) -> _Looked:
    place = task.annotation or task.mask
    row = StatusRow(
        task.slide_id,
        Status.FAILED,
        reason,
        "plan",
        "SlideError",
        f"{place}: {message}" if place else message,
        attempts=0,
    )
    return _Looked(task, (), row)


def _check_classes(spec: TileSpec, looked: Iterable[_Looked]) -> None:
    """Raises ConfigError for a class that no slide has, or that some have in another spelling."""
    looked = list(looked)
    num_slides = Counter(name for _, classes, _ in looked for name in classes)
    if not num_slides and any(refused is not None for *_, refused in looked):
        return  # nothing can be said of files that cannot be read; their slides fail by name
    for key, names in (("roi", spec.roi), ("exclude", spec.exclude)):
        for name in names:
            if name not in num_slides:
                close = difflib.get_close_matches(name.casefold(), [other.casefold() for other in num_slides], 3, 0.5)
                nearest = [other for other in num_slides if other.casefold() in close]
                listed = ", ".join(repr(other) for other in nearest or sorted(num_slides)[:_MAX_NAMED])
                which = "the nearest are" if nearest else "there are"
                raise ConfigError(
                    f"{key}={name}: no slide's annotation has this class; "
                    + (f"{which} {listed}" if listed else "none has any")
                )
            same = [other for other in num_slides if _plain(other) == _plain(name) and other not in names]
            if same:
                counts = ", ".join(f"{other!r} in {num_slides[other]}" for other in (name, *sorted(same)))
                raise ConfigError(
                    f"{key}={name}: the annotations spell it in several ways ({counts} slides); correct them, or name "
                    "each"
                )


def _plain(name: str) -> str:
    return "".join(character for character in name.casefold() if character.isalnum())
