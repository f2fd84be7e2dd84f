"""Annotations that are drawn in the viewer: GeoJSON as QuPath writes it, every saved version kept.

<slide_id>.geojson                                  the newest version, as `embed annotations=` reads it
versions/<slide_id>/<number>/<slide_id>.saved       every version, put-if-absent, with author and time

Of two people who change the same version, the second one is told, and nothing of the first is lost.
"""

import json
import uuid
from collections.abc import Mapping
from typing import Any, NamedTuple

from mhim_core.errors import ConflictError, InputError, IntegrityError, NotFoundError, SlideError
from mhim_core.fingerprint import canonical_json
from mhim_core.records import parse_json
from mhim_core.slides.annotations import read_annotation
from mhim_core.storage import Storage
from mhim_core.store.layout import check_slide_id
from mhim_core.types import SlideId

MAX_BYTES = 8 * 2**20
MAX_AUTHOR_CHARS = 100
_MOST_PX = 10_000_000
_ABOUT = "mhim"
"""The member of the collection that says who saved it, and when."""
_FOUND = "unknown (a file that was there before)"


class SavedAnnotation(NamedTuple):
    """One version of a slide's annotation."""

    version: int
    """From 1 on; 0: a file that was put there by other means, and is no version yet."""
    author: str
    saved_at: str
    """ISO 8601, UTC; empty: not known."""
    document: dict[str, Any]
    """The FeatureCollection."""


class Annotations:
    """The annotations of all slides, in a folder or prefix of their own."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.uri = storage.uri

    def newest(self, slide_id: SlideId) -> SavedAnnotation | None:
        """None: there is none. Raises IntegrityError for one that cannot be read, StorageError."""
        number = self._newest_number(slide_id)
        key = _version_key(slide_id, number) if number else _current_key(slide_id)
        try:
            data = self._storage.get(key)
        except NotFoundError:
            return None
        document = _read(data, self._storage.locate(key))
        about = document.get(_ABOUT) if number else None
        about = about if isinstance(about, Mapping) else {}
        return SavedAnnotation(number, str(about.get("author", "")), str(about.get("saved_at", "")), document)

    def save(self, slide_id: SlideId, document: Any, *, author: str, saved_at: str, based_on: int) -> SavedAnnotation:
        """Keep the next version and make it the current one. `based_on`: the version that was changed, 0 for none.

        Raises InputError for what is no annotation or no name, ConflictError where somebody saved in between.
        """
        author = _checked_author(author)
        features = _checked_features(document)
        standing = self._newest_number(slide_id)
        if standing == 0 and based_on == 0:
            standing = based_on = self._adopt(slide_id)
        number = based_on + 1
        about = {"author": author, "saved_at": saved_at, "version": number, "slide_id": slide_id}
        made = {"type": "FeatureCollection", "features": features, _ABOUT: about}
        data = canonical_json(made)
        if standing != based_on or not self._storage.put_if_absent(_version_key(slide_id, number), data):
            raise ConflictError(
                f"slide {slide_id}: version {max(standing, number)} was saved by somebody else meanwhile, and yours is "
                f"of version {based_on}; load the newest and draw again what is missing"
            )
        self._make_current(slide_id, number, data)
        return SavedAnnotation(number, author, saved_at, made)

    def export(self, slide_id: SlideId) -> bytes:
        """The newest version's file. Raises NotFoundError."""
        number = self._newest_number(slide_id)
        return self._storage.get(_version_key(slide_id, number) if number else _current_key(slide_id))

    def _newest_number(self, slide_id: SlideId) -> int:
        prefix = f"versions/{check_slide_id(slide_id)}"
        names = [entry.key.split("/")[2] for entry in self._storage.list(prefix) if entry.key.endswith(".saved")]
        return max((int(name) for name in names if name.isdecimal()), default=0)

    def _adopt(self, slide_id: SlideId) -> int:
        """A file that lies there without a version becomes the first, before another takes its place."""
        try:
            data = self._storage.get(_current_key(slide_id))
        except NotFoundError:
            return 0
        document = _read(data, self._storage.locate(_current_key(slide_id)))
        about = {"author": _FOUND, "saved_at": "", "version": 1, "slide_id": slide_id}
        self._storage.put_if_absent(_version_key(slide_id, 1), canonical_json({**document, _ABOUT: about}))
        return 1

    def _make_current(self, slide_id: SlideId, number: int, data: bytes) -> None:
        """Of two that save at once the later version stays, whichever writes last."""
        while True:
            self._storage.put(_current_key(slide_id), data)
            newest = self._newest_number(slide_id)
            if newest <= number:
                return
            number, data = newest, self._storage.get(_version_key(slide_id, newest))


def _current_key(slide_id: SlideId) -> str:
    return f"{check_slide_id(slide_id)}.geojson"


def _version_key(slide_id: SlideId, number: int) -> str:
    # no suffix of an annotation: `embed annotations=` looks at the newest alone; the slide's name: `store rm` finds it
    return f"versions/{check_slide_id(slide_id)}/{number:06d}/{slide_id}.saved"


def _read(data: bytes, where: str) -> dict[str, Any]:
    try:
        read_annotation(data)
        content = parse_json(data.removeprefix(b"\xef\xbb\xbf"))
    except (SlideError, ValueError) as error:
        raise IntegrityError(f"{where} cannot be read as GeoJSON: {error}") from error
    if isinstance(content, list):
        return {"type": "FeatureCollection", "features": content}
    if content.get("type") == "Feature":
        return {"type": "FeatureCollection", "features": [content]}
    return dict(content)


def _checked_author(author: str) -> str:
    author = author.strip()
    if not author or len(author) > MAX_AUTHOR_CHARS or not author.isprintable():
        raise InputError(f"an annotation needs its author's name, 1 to {MAX_AUTHOR_CHARS} printable characters")
    return author


def _checked_features(document: Any) -> list[dict[str, Any]]:
    """The polygons, with nothing but what is known of them. Raises InputError."""
    if not isinstance(document, Mapping) or not isinstance(document.get("features"), list):
        raise InputError("an annotation is a GeoJSON FeatureCollection")
    features = [_checked_feature(feature, number) for number, feature in enumerate(document["features"], 1)]
    try:
        data = json.dumps({"type": "FeatureCollection", "features": features}, allow_nan=False).encode()
        if len(data) > MAX_BYTES:
            raise InputError(f"an annotation may have {MAX_BYTES:,} bytes, and this one has {len(data):,}")
        read_annotation(data)
    except SlideError as error:
        raise InputError(f"it cannot be saved: {error.message}") from error
    except ValueError as error:
        raise InputError(f"it cannot be saved: {error}") from error
    return features


def _checked_feature(feature: Any, number: int) -> dict[str, Any]:
    geometry = feature.get("geometry") if isinstance(feature, Mapping) else None
    if not isinstance(geometry, Mapping) or geometry.get("type") not in ("Polygon", "MultiPolygon"):
        raise InputError(f"item {number} is no polygon; only polygons are saved")
    for value in _numbers(geometry.get("coordinates"), number):
        if not abs(value) <= _MOST_PX:
            raise InputError(f"item {number} has a coordinate of {value}, which lies on no slide")
    properties = feature.get("properties")
    properties = dict(properties) if isinstance(properties, Mapping) else {}
    identity = feature.get("id")
    return {
        "type": "Feature",
        "id": identity if isinstance(identity, str) and len(identity) <= 64 else str(uuid.uuid4()),
        "geometry": {"type": geometry["type"], "coordinates": geometry["coordinates"]},
        "properties": properties | {"objectType": "annotation"},
    }


def _numbers(value: Any, number: int) -> list[float]:
    """Every coordinate, however deep."""
    if isinstance(value, bool) or not isinstance(value, list | int | float):
        raise InputError(f"item {number} has coordinates that are no numbers")
    if isinstance(value, list):
        return [each for part in value for each in _numbers(part, number)]
    return [float(value)]
