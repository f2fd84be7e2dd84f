"""ASAP's XML: outlines with their group, which is their class. Groups within groups are classes of their own.

A spline's outline runs straight between its control points, as in the masks that ASAP itself makes of it.
"""

from typing import Any
from xml.parsers import expat

from mhim_core.slides.annotations import Annotation, Polygon, RegionCollector, bad_annotation, checked_ring

_WITH_AREA = frozenset({"Polygon", "Spline", "Rectangle"})
_NO_GROUP = "None"


def read_asap(data: bytes) -> Annotation:
    """The regions of a file. Raises SlideError(bad_annotation), also for a DTD, which ASAP never writes."""
    reader = _Reader()
    parser = expat.ParserCreate()
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.StartDoctypeDeclHandler = reader.refuse_doctype
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise bad_annotation(f"the XML is damaged: {error}") from error
    if not reader.is_asap:
        raise bad_annotation("the XML is not ASAP's: it has no ASAP_Annotations")
    return reader.collector.annotation()


class _Reader:
    """Takes the elements as they come: of an annotation its attributes, then its coordinates."""

    def __init__(self) -> None:
        self.collector = RegionCollector()
        self.is_asap = False
        self._annotation: dict[str, str] | None = None
        self._points: list[tuple[int, float, float]] = []

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == "ASAP_Annotations":
            self.is_asap = True
        elif tag == "Annotation":
            self._annotation, self._points = attributes, []
        elif tag == "Coordinate" and self._annotation is not None:
            try:
                x, y = (float(attributes[axis].replace(",", ".")) for axis in ("X", "Y"))
                self._points.append((int(attributes.get("Order", len(self._points))), x, y))
            except (KeyError, ValueError) as error:
                raise bad_annotation(f"{self._name()} has a coordinate that is none: {error}") from error

    def end(self, tag: str) -> None:
        if tag != "Annotation" or self._annotation is None:
            return
        group = self._annotation.get("PartOfGroup", _NO_GROUP)
        name = "" if group == _NO_GROUP else group
        kind = self._annotation.get("Type", "")
        if kind in _WITH_AREA:
            points = [(x, y) for _, x, y in sorted(self._points)]
            if kind == "Rectangle" and len(points) == 2:
                (left, top), (right, bottom) = points
                points = [(left, top), (right, top), (right, bottom), (left, bottom)]
            self.collector.add(name, Polygon((checked_ring(points, self._name()),)))
        else:
            self.collector.add_without_area(name, kind or "annotation without a type")
        self._annotation = None

    def refuse_doctype(self, *_: Any) -> None:
        raise bad_annotation("the XML declares a document type, which ASAP never does")

    def _name(self) -> str:
        assert self._annotation is not None
        return f"annotation {self._annotation.get('Name', '')!r}"
