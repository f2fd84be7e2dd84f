"""README's table of formats against what is registered."""

import re
import tomllib
from pathlib import Path

from mhim_core.cohort.columns import SLIDE_EXTENSIONS
from mhim_core.slides.registry import BACKEND_NAMES

ROOT = Path(__file__).parents[3]
PICTURES = {".png", ".jpg"}
"""Which a folder of slides does not take for slides, and a table may name."""


def table() -> list[list[str]]:
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Formats\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in rows[1:]]


def quoted(cell: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", cell))


def test_every_suffix_of_a_slide_is_in_the_table_and_no_other() -> None:
    suffixes = set().union(*(quoted(row[1]) for row in table()))
    assert suffixes == {*SLIDE_EXTENSIONS} | PICTURES


def test_every_backend_is_in_the_table_and_no_other() -> None:
    assert set().union(*(quoted(row[2]) for row in table())) == {*BACKEND_NAMES}


def test_the_extras_that_it_names_are_there() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    named = {word for row in table() for word in quoted(row[4]) if not word.startswith((".", "s3"))}
    assert named == {"formats", "fastslide"} <= extras.keys()
