"""Annotations, masks and coordinates of a cohort's slides: found, read and digested once, before anything starts."""

import difflib
import posixpath
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import NamedTuple

from cluster.child_calls import call_in_child
from cluster.region_files import read_places, region_files
from cluster.storage import open_storage
from flows.config.keys import RegionKeys
from flows.runs.cohort import CohortInput
from flows.runs.selection import SettledSelection
from mhim_core.cohort.rows import CohortRow
from mhim_core.errors import ConfigError, SlideError
from mhim_core.slides import annotations, tissue_mask
from mhim_core.slides.places import TilePlaces
from mhim_core.slides.regions import slide_regions
from mhim_core.slides.spec import TileSpec, TissueMethod
from mhim_core.store.foreign import coordinates
from mhim_core.store.parallel import map_all
from mhim_core.types import FailureReason, SlideId, SlideTask, Status, StatusRow

_MAX_NAMED = 10
_READ_TIMEOUT_S = 300.0
"""For one file of coordinates, hundreds of times what a large one takes."""


class _Looked(NamedTuple):
    """What became of one slide's files."""

    task: SlideTask
    classes: tuple[str, ...]
    refused: StatusRow | None = None


def with_regions(
    cohort_input: CohortInput,
    spec: TileSpec,
    keys: RegionKeys,
    *,
    named_here: bool = True,
    selection: SettledSelection | None = None,
) -> CohortInput:
    """The cohort with what decides each slide's tiles beside its file, as far as the spec uses it, and its digest:
    annotation, mask, the places of its tiles, the features by which some are chosen.

    Slides that lack what the spec needs are in `refused`. `named_here`: the user named the classes for these slides, so
    that one which none of them has is an error; false: a model did, and it may be missing in a few new slides. Raises
    ConfigError, StorageError.
    """
    if selection is None and (spec.selects or spec.select_share < 1):
        raise ConfigError("a share of the tiles (select_share) can be chosen in embed, predict and store repair alone")
    needed = {"annotations": "roi=, exclude= or tile_classes=true", "masks": "tissue=mask"}
    if not spec.needs_files:
        if unused := [name for name in needed if getattr(keys, name)]:
            raise ConfigError(f"{unused[0]}={getattr(keys, unused[0])} is used with {needed[unused[0]]} only")
        if selection is None:
            return cohort_input
    rows = cohort_input.cohort.rows
    places = {
        "annotation": _places(rows, "annotation", keys.annotations, "annotations", annotations.SUFFIXES)
        if spec.uses_annotations
        else {},
        "mask": _places(rows, "mask", keys.masks, "masks", tissue_mask.SUFFIXES)
        if spec.tissue is TissueMethod.mask
        else {},
        "places": _places(rows, "", keys.coordinates, "coordinates", coordinates.SUFFIXES, coordinates.NAME_ENDINGS)
        if spec.placed
        else {},
    }
    _check_any(spec, keys, places, named_here)

    def look(task: SlideTask) -> _Looked:
        annotation, mask, own_places = (found.get(task.slide_id, "") for found in places.values())
        task = task._replace(annotation=annotation, mask=mask, places=own_places)
        chosen = task if selection is None else selection.looked(task)
        return _Looked(task, (), chosen) if isinstance(chosen, StatusRow) else _look(chosen, spec, keys)

    looked = map_all(look, cohort_input.tasks())
    if named_here:
        _check_classes(spec, looked)
    if spec.placed:
        _check_usable(keys, looked)
    return cohort_input._replace(
        selection=None if selection is None else selection.selection,
        regions={task.slide_id: task for task, _, refused in looked if refused is None},
        refused=tuple(refused for *_, refused in looked if refused is not None),
    )


def _places(
    rows: Iterable[CohortRow],
    column: str,
    folder: str,
    key: str,
    suffixes: tuple[str, ...],
    endings: tuple[str, ...] = (),
) -> Mapping[SlideId, str]:
    """Where each slide's file lies: as its row says, or else in the folder, under the slide's id or file name.

    `column`: of the table, "" for none; `endings`: what may stand between that name and the suffix.
    """
    found: dict[str, list[str]] = {}
    if folder:
        storage = open_storage(folder)
        entries = [entry for entry in storage.list("") if entry.key.lower().endswith(suffixes)]
        # of a tool's folder with features as well, the files of places alone
        own = [entry for entry in entries if endings and "patches" in entry.key.split("/")[:-1]]
        for entry in own or entries:
            own_name = PurePosixPath(entry.key).name
            suffix = max((each for each in suffixes if own_name.lower().endswith(each)), key=len)
            stem = own_name[: -len(suffix)]
            for ending in endings:
                stem = stem.removesuffix(ending)
            found.setdefault(stem, []).append(storage.locate(entry.key))
        if not found:
            raise ConfigError(f"{key}={folder} is no folder with a file that ends in {', '.join(suffixes)}")
    places: dict[SlideId, str] = {}
    used = set()
    for row in rows:
        stated: str = getattr(row, column) if column else ""
        name = posixpath.basename(row.uri)
        named = [stem for stem in (row.slide_id, name, PurePosixPath(name).stem) if stem in found]
        if not stated and named:
            if len(found[named[0]]) > 1:
                listed = ", ".join(found[named[0]])
                raise ConfigError(f"{key}={folder} holds several files of slide {row.slide_id}: {listed}")
            stated = found[named[0]][0]
            used.add(named[0])
        if stated:
            places[row.slide_id] = stated
    if strangers := sorted(found.keys() - used):
        listed = ", ".join(strangers[:_MAX_NAMED]) + (", …" if len(strangers) > _MAX_NAMED else "")
        print(f"note: {len(strangers)} files of {key}={folder} are named after no slide that needs them: {listed}")
    return places


def _check_any(spec: TileSpec, keys: RegionKeys, places: Mapping[str, Mapping[SlideId, str]], named_here: bool) -> None:
    if spec.placed and not places["places"]:
        raise ConfigError(
            f"coordinates={keys.coordinates} holds no file of any of the slides: it is to be named <slide_id> and one "
            f"of {', '.join(coordinates.SUFFIXES)}, or <slide_id>_patches.h5"
        )
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


def _check_usable(keys: RegionKeys, looked: Iterable[_Looked]) -> None:
    """Raises ConfigError where none of the slides' files of coordinates can be read, as of a folder of other files."""
    rows = [refused for task, _, refused in looked if task.places]
    unfit = [row for row in rows if row is not None and row.reason is FailureReason.BAD_ANNOTATION]
    if unfit and len(unfit) == len(rows):
        raise ConfigError(f"coordinates={keys.coordinates}: no file of it can be used; the first: {unfit[0].message}")


def _look(task: SlideTask, spec: TileSpec, keys: RegionKeys) -> _Looked:
    lacks = []
    if spec.uses_annotations and not task.annotation and not keys.takes_unannotated:
        lacks.append("annotation (unannotated=whole takes it as it is)")
    if spec.tissue is TissueMethod.mask and not task.mask:
        lacks.append("mask")
    if spec.placed and not task.places:
        lacks.append("file of coordinates")
    if lacks:
        return _refused(task, FailureReason.NO_ANNOTATION, f"the slide has no {' and no '.join(lacks)}")
    try:
        regions = slide_regions(region_files(task, tile_size_l0_px=keys.tile_size_l0_px, read=_read_apart), spec)
    except SlideError as error:
        return _refused(task, error.reason, error.message)
    classes = () if regions.annotation is None else regions.annotation.classes
    return _Looked(task._replace(regions=regions.digest), classes)


def _read_apart(uri: str, data: bytes, tile_size_l0_px: int | None) -> TilePlaces:
    """As `read_places`; HDF5 in a child, since a flipped bit can make its library loop for ever, or crash."""
    if not uri.lower().endswith((".h5", ".hdf5")):
        return read_places(uri, data, tile_size_l0_px)
    try:
        return call_in_child(read_places, uri, data, tile_size_l0_px, timeout_s=_READ_TIMEOUT_S)
    except (TimeoutError, ConnectionError) as error:
        raise SlideError(FailureReason.BAD_ANNOTATION, f"HDF5's library hangs or crashes at it: {error}") from error


def _refused(task: SlideTask, reason: FailureReason, message: str) -> _Looked:
    place = task.places or task.annotation or task.mask
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
