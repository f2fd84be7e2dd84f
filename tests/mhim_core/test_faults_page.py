"""docs/faults.md names, row by row, the tests that are marked with it."""

import ast
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/faults.md"


def marked() -> dict[int, set[str]]:
    """Files of tests by the row of the page that a test in them is marked with."""
    files = defaultdict(set)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for function in ast.walk(ast.parse(path.read_text())):
            for decorator in getattr(function, "decorator_list", ()):
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.fault":
                    for row in decorator.args:
                        files[ast.literal_eval(row)].add(str(path.relative_to(ROOT)))
    return dict(files)


def test_every_row_names_the_files_of_its_tests() -> None:
    rows = re.findall(r"^\| (\d+) \|.*\| ([^|]*) \|$", PAGE.read_text(), re.M)
    assert {int(row): cell for row, cell in rows} == {
        row: ", ".join(f"`{file}`" for file in sorted(files)) for row, files in marked().items()
    }
    assert [int(row) for row, _ in rows] == list(range(1, len(rows) + 1))
