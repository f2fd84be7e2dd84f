"""The frame of every page: head, style, print rules, banner, contents, foot. What stands in it is each page's own.

A page has no script, asks for nothing from elsewhere, and its policy (CSP) allows no more than its own style and its
own pictures, so that text from a user's table could do nothing even if it were not escaped. The same content gives the
same bytes.
"""

import base64
import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple

from mhim_core.report.numbers import (
    format_amount,
    format_difference,
    format_estimate,
    format_metric,
    format_number,
    format_p,
)
from mhim_core.report.pictures import Pictures, PicturesInside

if TYPE_CHECKING:
    from jinja2 import Environment

RESEARCH_USE = "Research use only. Not a medical device: not for diagnosis, nor for decisions about patients."
_BESIDE, _INSIDE = "img-src 'self' file: data:", "img-src data:"
"""What a page may load. file: since browsers do not agree what 'self' is for a page that was opened from a disk."""


class Fact(NamedTuple):
    """One line of a list of facts."""

    name: str
    value: str


class Anchor(NamedTuple):
    """An entry of a page's contents."""

    target: str
    """The id of a section."""
    title: str


def render_page(
    template: str,
    *,
    pictures: Pictures | None = None,
    filters: Mapping[str, Callable[..., str]] | None = None,
    anchors: Iterable[Anchor] = (),
    **content: Any,
) -> str:
    """A page from its template in `templates/`, which extends `frame.html.j2`.

    `pictures`: where it puts them; None: inside. Raises ValueError for a picture that is none.
    """
    environment = _environment(template)
    environment.filters.update(filters or {})
    pictures = pictures or PicturesInside()
    return environment.get_template(template).render(
        place=pictures.place,
        picture_policy=_BESIDE if pictures.folder else _INSIDE,
        style=_style().text,
        style_digest=_style().digest,
        research_use=RESEARCH_USE,
        anchors=[*anchors],
        **content,
    )


def flatten_facts(facts: Mapping[str, Any], prefix: str = "") -> list[Fact]:
    """Nested mappings as `transform.mean`, lists on one line, None and empty text as a dash; in the mapping's order."""
    lines = []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            lines += flatten_facts(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            lines.append(Fact(f"{prefix}{name}", ", ".join(map(str, value))))
        else:
            lines.append(Fact(f"{prefix}{name}", "–" if value in (None, "") else str(value)))
    return lines


class _Style(NamedTuple):
    text: str
    digest: str
    """As a policy names it."""


@functools.cache
def _style() -> _Style:
    from markupsafe import Markup

    text = _source("style.css")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return _Style(Markup(text), f"'sha256-{digest}'")


@functools.cache
def _environment(template: str) -> "Environment":
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(_source)
    )
    environment.filters |= {
        "number": format_number,
        "amount": format_amount,
        "difference": format_difference,
        "metric": format_metric,
        "p": format_p,
        "estimate": format_estimate,
        "facts": flatten_facts,
        "percent": _percent,
    }
    return environment


def _source(name: str) -> str:
    return resources.files("mhim_core.report").joinpath(f"templates/{name}").read_text(encoding="utf-8")


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "–"
