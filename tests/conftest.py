"""Fixtures for all tests. This is the one place that knows where the shared data and golden vectors lie."""

import importlib.abc
import json
import os
import random
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SHARED_DATA = Path(os.environ.get("MHIM_SHARED_DATA", ROOT / "../shared/data")).resolve()
GOLDEN_DIR = Path(os.environ.get("MHIM_GOLDEN_DIR", ROOT / "../shared/golden")).resolve()

WITHOUT = tuple(name for name in os.environ.get("MHIM_WITHOUT", "").split(",") if name)
"""Packages made unimportable: `make check` runs the core's tests without Ray and Hydra."""


class _Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname: str, path: Sequence[str] | None, target: object = None) -> None:
        if fullname.split(".")[0] in WITHOUT:
            raise ModuleNotFoundError(f"{fullname} is made unimportable for this test run", name=fullname)


if WITHOUT:
    loaded = [name for name in WITHOUT if name in sys.modules]
    assert not loaded, f"{loaded} were imported before they could be refused"
    sys.meta_path.insert(0, _Refuse())

DURATIONS = Path(__file__).with_name("durations.json")
"""Seconds by file of tests, of those that take one and more; `make durations` measures them anew."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first, so that the processes that share the files end together; the order within one stays."""
    seconds = json.loads(DURATIONS.read_text())
    items.sort(key=lambda item: -seconds.get(_file_of(item.nodeid), 0))


def _file_of(nodeid: str) -> str:
    return nodeid.partition("::")[0]


_measured: Counter[str] = Counter()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Seconds of the process that ran the test, where they are to be recorded."""
    _measured[_file_of(report.nodeid)] += report.duration


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With MHIM_RECORD_DURATIONS set, what was measured takes the place of what was recorded of these files."""
    if os.environ.get("MHIM_RECORD_DURATIONS") and "PYTEST_XDIST_WORKER" not in os.environ:
        known = json.loads(DURATIONS.read_text()) | {name: round(value) for name, value in _measured.items()}
        kept = {name: value for name, value in sorted(known.items()) if value and (ROOT / name).is_file()}
        DURATIONS.write_text(json.dumps(kept, indent=2) + "\n")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """A test draws the same numbers whichever tests its process ran before it."""
    random.seed(0)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real slides, bags and weights; skips where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no shared data at {SHARED_DATA}; set MHIM_SHARED_DATA to run this test")
    return SHARED_DATA


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> Any:
    """A test of tensors runs once on the CPU and once on the GPU; skips the latter where there is none."""
    import torch

    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine; benchmarks/device.sh runs these tests where there is one")
    return torch.device(request.param)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`golden_path` runs a test once per golden vector in the folder (MHIM_GOLDEN_DIR) of the kinds in `vectors`."""
    if "golden_path" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("vectors")
        kinds = marker.args if marker else ("attn", "selfattn", "dsmil")
        paths = sorted(path for path in GOLDEN_DIR.glob("*.npz") if path.name.split("_")[0] in kinds)
        absent = pytest.param(
            None, marks=pytest.mark.skip(reason=f"no golden vectors in {GOLDEN_DIR}; set MHIM_GOLDEN_DIR"), id="absent"
        )
        metafunc.parametrize("golden_path", paths or [absent], ids=lambda path: getattr(path, "stem", None))
