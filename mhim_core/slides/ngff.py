"""What the metadata of an OME-Zarr say: which arrays are a picture's levels, and of what resolution.

Read from the JSON files themselves, before any library sees the folder: codecs are an allow-list (numcodecs has one
that unpickles), paths stay inside, sizes are checked. Formats: NGFF 0.4 (Zarr 2) and 0.5 (Zarr 3).
"""

import json
import math
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from mhim_core.errors import SlideError
from mhim_core.slides.blocks import check_scenes
from mhim_core.slides.tiff import check_dimensions
from mhim_core.types import FailureReason

METADATA_NAMES = frozenset({".zgroup", ".zattrs", ".zarray", ".zmetadata", "zarr.json"})
_MAX_JSON_BYTES = 16 * 2**20
_VERSIONS = ("0.4", "0.5")
_UNITS_UM = {
    "angstrom": 1e-4,
    "nanometer": 1e-3,
    "micrometer": 1.0,
    "millimeter": 1e3,
    "centimeter": 1e4,
    "meter": 1e6,
    "micron": 1.0,
    "nm": 1e-3,
    "um": 1.0,
    "µm": 1.0,
    "μm": 1.0,
    "mm": 1e3,
}
_CODECS = frozenset({"blosc", "zstd", "zlib", "gzip", "lz4", "lzma", "bz2"})
"""numcodecs' compressors of bytes."""
_CODECS_3 = frozenset({"bytes", "transpose", "blosc", "zstd", "gzip", "crc32c", "sharding_indexed"})
"""Those of the Zarr 3 specification."""
_MAX_SCALE_ERROR_PX = 2.0
"""Pixels by which a level's size may differ from what its scale says, by rounding."""


class Axes(NamedTuple):
    """Places of the axes in an array's shape. `others` have the length 1."""

    y: int
    x: int
    channel: int
    others: tuple[int, ...]


class ArrayLevel(NamedTuple):
    """One level: an array of uint8 with three colours."""

    path: str
    """Below the folder."""
    width_px: int
    height_px: int
    downsample: float
    is_blosc: bool
    """A chunk's file is one buffer of blosc, which numcodecs decodes beyond its end where it is cut off."""


class Multiscale(NamedTuple):
    """A picture's pyramid, finest first."""

    levels: tuple[ArrayLevel, ...]
    axes: Axes
    mpp: tuple[float, float] | None
    """µm/px of level 0 along x and y; None where the axes state no unit."""


def is_zarr(folder: Path) -> bool:
    """Whether a folder holds Zarr's metadata: a group, or an array."""
    return any((folder / name).is_file() for name in METADATA_NAMES)


def read_multiscale(folder: Path) -> Multiscale:
    """Raises SlideError: OPEN for anything but one bright-field picture, TOO_LARGE."""
    try:
        return _read(folder)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise SlideError(FailureReason.OPEN, f"its OME-Zarr metadata are broken: {type(error).__name__}") from error


def _read(folder: Path) -> Multiscale:
    attributes = _attributes(folder)
    for layout in ("plate", "well"):
        if layout in attributes:
            raise _refusal(f"it is a {layout} of many pictures; name one of the pictures in it")
    if "multiscales" in attributes:
        return _multiscale(folder, "", attributes)
    if attributes.get("bioformats2raw.layout") != 3:
        raise _refusal("it is a Zarr without `multiscales`, and no OME-Zarr picture; name the group that has them")
    names = _attributes(folder / "OME").get("series") if is_zarr(folder / "OME") else None
    series = names or sorted((child.name for child in folder.iterdir() if child.name.isdigit()), key=int)
    pictures, areas = [], []
    for name in series:
        of_series = _attributes(folder / _inside(name))
        dataset = _only(of_series["multiscales"])["datasets"][0]["path"]
        shape = _array(folder / _inside(f"{name}/{dataset}"))["shape"]
        pictures.append((name, of_series))
        areas.append(int(shape[-1]) * int(shape[-2]))
    check_scenes(areas, "name one of its groups in the cohort, such as slide.zarr/0")
    name, of_series = pictures[areas.index(max(areas))]
    return _multiscale(folder, f"{name}/", of_series)


def _multiscale(folder: Path, prefix: str, attributes: dict[str, Any]) -> Multiscale:
    multiscale = _only(attributes["multiscales"])
    version = str(attributes.get("version") or multiscale.get("version"))
    if version not in _VERSIONS:
        raise _refusal(f"it is OME-Zarr {version}, and {' and '.join(_VERSIONS)} are read; convert it with ome-zarr-py")
    names = [axis["name"] for axis in multiscale["axes"]]
    if len(set(names)) != len(names) or not {"y", "x", "c"} <= set(names) <= set("tczyx"):
        raise _refusal(f"its axes {''.join(map(str, names))} are not those of one picture with three colours (cyx)")
    others = tuple(index for index, name in enumerate(names) if name in "tz")
    axes = Axes(names.index("y"), names.index("x"), names.index("c"), others)
    common = _transform(multiscale.get("coordinateTransformations") or [], len(names))
    levels: list[ArrayLevel] = []
    first: tuple[list[float], list[float]] | None = None
    for dataset in multiscale["datasets"]:
        path = str(_inside(f"{prefix}{dataset['path']}"))
        array = _array(folder / path)
        shape = _checked_shape(array, axes, len(names))
        scale, shift = _transform(dataset["coordinateTransformations"], len(names), is_needed=True)
        first = first or (scale, shift)
        level = _level(path, shape, axes, (scale, shift), first, levels)
        levels.append(level._replace(is_blosc=_is_blosc(array)))
    if first is None:
        raise _refusal("it lists no levels")
    units = [multiscale["axes"][axis].get("unit") for axis in (axes.x, axes.y)]
    if any(unit not in _UNITS_UM for unit in units):
        return Multiscale(tuple(levels), axes, None)
    x, y = (
        first[0][axis] * common[0][axis] * _UNITS_UM[unit] for axis, unit in zip((axes.x, axes.y), units, strict=True)
    )
    return Multiscale(tuple(levels), axes, (x, y))


def _level(
    path: str,
    shape: list[int],
    axes: Axes,
    transform: tuple[list[float], list[float]],
    first: tuple[list[float], list[float]],
    finer: list[ArrayLevel],
) -> ArrayLevel:
    """A level whose size, scale and place agree with level 0's. Raises SlideError(OPEN)."""
    width, height = shape[axes.x], shape[axes.y]
    factors = [transform[0][axis] / first[0][axis] for axis in (axes.x, axes.y)]
    if not finer:
        check_dimensions(width, height)
        return ArrayLevel(path, width, height, 1.0, False)
    full = finer[0]
    for size, size_0, factor, axis in zip(
        (width, height), (full.width_px, full.height_px), factors, (axes.x, axes.y), strict=True
    ):
        shift_px = (transform[1][axis] - first[1][axis]) / transform[0][axis]
        if not (factor > 1 and abs(size_0 / factor - size) <= _MAX_SCALE_ERROR_PX and abs(shift_px) <= 1):
            raise _refusal(
                f"level {path} has {size} px, a scale of {factor:g} and a shift of {shift_px:g} px: no pyramid"
            )
    downsample = (factors[0] + factors[1]) / 2
    if downsample <= finer[-1].downsample or abs(factors[0] / factors[1] - 1) > 0.01:
        raise _refusal(f"level {path} is {factors[0]:g} × {factors[1]:g} times coarser: no pyramid")
    return ArrayLevel(path, width, height, downsample, False)


def _transform(
    steps: list[dict[str, Any]], num_axes: int, *, is_needed: bool = False
) -> tuple[list[float], list[float]]:
    """(scale, translation) of a list of transformations."""
    scale, shift = [1.0] * num_axes, [0.0] * num_axes
    for step in steps:
        values = [float(value) for value in step[step["type"]]] if step["type"] in ("scale", "translation") else []
        if len(values) != num_axes or not all(map(math.isfinite, values)):
            raise _refusal(f"its transformation of type {step['type']} is none that is read here")
        if step["type"] == "scale":
            scale = [a * b for a, b in zip(scale, values, strict=True)]
        else:
            shift = [a + b for a, b in zip(shift, values, strict=True)]
    if min(scale) <= 0 or (is_needed and not any(step["type"] == "scale" for step in steps)):
        raise _refusal("a level states no scale")
    return scale, shift


def _checked_shape(array: dict[str, Any], axes: Axes, num_axes: int) -> list[int]:
    shape = [int(length) for length in array["shape"]]
    kind = array.get("data_type") or array["dtype"]
    if kind not in ("uint8", "|u1") or len(shape) != num_axes or shape[axes.channel] != 3 or min(shape) < 1:
        raise _refusal(
            f"an array of {kind} with the shape {shape} is no bright-field picture (one of three 8-bit channels)"
        )
    if any(shape[axis] != 1 for axis in axes.others):
        raise _refusal(f"its shape {shape} has several times or focal planes; export one as a picture of its own")
    codecs = _codecs(array)
    if unknown := sorted({str(codec) for codec in codecs} - (_CODECS if "dtype" in array else _CODECS_3)):
        raise _refusal(f"its chunks are stored with {', '.join(unknown)}, which is not read here")
    return shape


def _codecs(array: dict[str, Any]) -> list[Any]:
    if "dtype" in array:
        steps = [array.get("compressor"), *(array.get("filters") or ())]
        return [step["id"] for step in steps if step is not None]
    return [name for codec in array["codecs"] for name in _codec_names(codec)] + (
        array.get("storage_transformers") or []
    )


def _is_blosc(array: dict[str, Any]) -> bool:
    if "dtype" in array:
        return bool((array.get("compressor") or {}).get("id") == "blosc")
    return bool(array["codecs"][-1]["name"] == "blosc")


def _codec_names(codec: dict[str, Any]) -> list[Any]:
    inside = codec.get("configuration") or {}
    nested = [*(inside.get("codecs") or ()), *(inside.get("index_codecs") or ())]
    return [codec["name"], *(name for step in nested for name in _codec_names(step))]


def _attributes(group: Path) -> dict[str, Any]:
    """A group's, with those that NGFF 0.5 keeps under `ome`."""
    if (group / "zarr.json").is_file():
        attributes = _json(group / "zarr.json").get("attributes") or {}
        return dict(attributes.get("ome") or attributes)
    return dict(_json(group / ".zattrs")) if (group / ".zattrs").is_file() else {}


def _array(folder: Path) -> dict[str, Any]:
    for name in ("zarr.json", ".zarray"):
        if (folder / name).is_file():
            return _json(folder / name)
    raise _refusal(f"there is no array {folder.name}: the folder is incomplete; copy it again")


def _json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise _refusal(f"its {path.name} has {path.stat().st_size:,} bytes")
    content = json.loads(path.read_bytes())
    if not isinstance(content, dict):
        raise TypeError(path.name)
    return content


def _only(multiscales: list[dict[str, Any]]) -> dict[str, Any]:
    if len(multiscales) != 1:
        raise _refusal(f"it has {len(multiscales)} multiscales, of which one would have to be chosen")
    return multiscales[0]


def _inside(path: str) -> PurePosixPath:
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts:
        raise _refusal("one of its paths leads out of the folder")
    return parts


def _refusal(message: str) -> SlideError:
    return SlideError(FailureReason.OPEN, message)
