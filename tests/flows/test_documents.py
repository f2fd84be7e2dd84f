"""Files that the documents name are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md")), *sorted((ROOT / "docs").glob("*.md"))]
DOCUMENTS.remove(ROOT / "docs/LOG.md")  # what was measured then is told with the names of then
_FILE = re.compile(r"`((?:flows|cluster|mhim_core|tests|benchmarks|docs|deploy)/[\w/.-]+\.(?:py|md|sh|yaml|json))\b")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_that_a_document_names_is_there(document: Path) -> None:
    missing = [name for name in _FILE.findall(document.read_text(encoding="utf-8")) if not (ROOT / name).exists()]
    assert not missing
