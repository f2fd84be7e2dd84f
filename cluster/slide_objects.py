"""The objects of a bucket that one slide consists of, and what each is called beside the others on a local disk.

What OpenSlide looks for beside the file that it is given: a `.mrxs` and a `.vsi` have a folder, a `.vms` or `.vmu`
names its pictures, and the files of a DICOM series lie in one folder. The slide's hint and identity are those of the
file that the cohort names, as on a local disk.
"""

import posixpath
import re
from collections.abc import Iterator
from typing import NamedTuple

from cluster.object_ranges import read_object_part
from cluster.s3 import S3Place, parse_s3_uri, shared_client
from mhim_core.errors import SlideError
from mhim_core.features import SourceHint
from mhim_core.store.parallel import map_all
from mhim_core.types import FailureReason

_HEAD_BYTES = 65_536
"""Of a DICOM file: its series is named before its pixels, within a few KB."""
_MAX_KEY_FILE_BYTES = 2**20
_SERIES_UID = re.compile(rb"\x20\x00\x0e\x00(?:UI..|..\x00\x00)([0-9.]{1,64})", re.DOTALL)
"""Of explicit and of implicit VR, little endian, at whatever depth: too many files are no harm, one too few is."""


class SlideObject(NamedTuple):
    """One of a slide's objects."""

    hint: SourceHint
    name: str
    """Its path below the local folder."""


def slide_objects(main: SourceHint) -> list[SlideObject]:
    """The object that the cohort names, `slide` with its suffix, and those that belong to it.

    Raises SlideError(OPEN) for names that leave the folder; NotFoundError, StorageError.
    """
    suffix = posixpath.splitext(main.uri)[1]
    others = _OTHERS.get(suffix.lower())
    return [SlideObject(main, f"slide{suffix}"), *(others(main) if others else ())]


def _of_mrxs(main: SourceHint) -> Iterator[SlideObject]:
    return _of_folder(f"{posixpath.splitext(main.uri)[0]}/", "slide")


def _of_vsi(main: SourceHint) -> Iterator[SlideObject]:
    parent, name = posixpath.split(posixpath.splitext(main.uri)[0])
    return _of_folder(f"{parent}/_{name}_/", "_slide_")


def _of_folder(folder: str, local_folder: str) -> Iterator[SlideObject]:
    for hint in _listed(folder, is_deep=True):
        name = hint.uri.removeprefix(folder)
        if any(part in ("", ".", "..") for part in name.split("/")):
            raise SlideError(FailureReason.OPEN, "the slide's folder holds an object whose name is no file's")
        yield SlideObject(hint, f"{local_folder}/{name}")


def _of_vms(main: SourceHint) -> Iterator[SlideObject]:
    text = read_object_part(main, 0, min(main.num_bytes, _MAX_KEY_FILE_BYTES)) if main.num_bytes else b""
    named = {line.partition("=")[2].strip() for line in text.decode("latin-1").splitlines()}
    for hint in _beside(main):
        name = posixpath.basename(hint.uri)
        if name in named:
            yield SlideObject(hint, name)


def _of_dicom(main: SourceHint) -> Iterator[SlideObject]:
    beside = [hint for hint in _beside(main) if hint.uri.lower().endswith(".dcm")]
    series, *others = map_all(_series, [main, *beside])
    for number, (hint, uids) in enumerate(zip(beside, others, strict=True)):
        if not series or not uids or series & uids:
            yield SlideObject(hint, f"part-{number}.dcm")


def _series(hint: SourceHint) -> set[bytes]:
    num_bytes = min(hint.num_bytes, _HEAD_BYTES)
    return set(_SERIES_UID.findall(read_object_part(hint, 0, num_bytes))) if num_bytes else set()


def _beside(main: SourceHint) -> Iterator[SourceHint]:
    return (hint for hint in _listed(f"{posixpath.dirname(main.uri)}/", is_deep=False) if hint.uri != main.uri)


def _listed(folder: str, *, is_deep: bool) -> Iterator[SourceHint]:
    """The objects below `s3://bucket/folder/`."""
    place = parse_s3_uri(folder)
    prefix = f"{place.key}/" if place.key else ""
    arguments = {"Bucket": place.bucket, "Prefix": prefix} | ({} if is_deep else {"Delimiter": "/"})
    while True:
        page = shared_client().call("list", S3Place(place.bucket, prefix), lambda s3: s3.list_objects_v2(**arguments))
        for item in page.get("Contents", []):
            if not item["Key"].endswith("/"):  # a folder's own mark
                yield SourceHint(f"s3://{place.bucket}/{item['Key']}", int(item["Size"]), item["ETag"].strip('"'))
        if not page.get("IsTruncated"):
            return
        arguments["ContinuationToken"] = page["NextContinuationToken"]


_OTHERS = {".mrxs": _of_mrxs, ".vsi": _of_vsi, ".vms": _of_vms, ".vmu": _of_vms, ".dcm": _of_dicom}
