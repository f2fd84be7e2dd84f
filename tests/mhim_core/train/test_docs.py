"""The example of docs/python.md runs as it stands."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "docs/python.md"


def test_the_training_example_runs_and_separates_its_classes(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (example,) = (block for block in blocks if "run_fits" in block)
    namespace: dict[str, object] = {}
    exec(compile(example, str(PAGE), "exec"), namespace)
    assert namespace["metrics"]["models"]["mhim"]["pooled"]["auroc"]["value"] > 0.8  # type: ignore[index]
    assert "value" in capsys.readouterr().out
