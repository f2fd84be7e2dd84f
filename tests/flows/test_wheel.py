"""What a user installs: a wheel built from the tree, in an environment without the checkout, runs the demo."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("flows", "cluster", "mhim_core")
FOLDERS = (
    "import flows, cluster, mhim_core; print(*(name.__path__[0] for name in (flows, cluster, mhim_core)), sep='\\n')"
)


def run(words: Sequence[str | Path], folder: Path) -> str:
    """stdout of a command that must end well, with nothing of the environment pointing to the checkout."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MHIM"))}
    ended = subprocess.run(
        [str(word) for word in words], cwd=folder, env=environment, capture_output=True, text=True, timeout=500
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return ended.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: a build leaves files behind, and takes into the wheel what an earlier one left."""
    folder = tmp_path_factory.mktemp("tree")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    pip = [sys.executable, "-m", "pip", "wheel", ".", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    run([*pip, "--wheel-dir", "dist"], folder)
    (built,) = (folder / "dist").glob("mhim-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of an environment that holds the wheel, and borrows from ours what the wheel depends on."""
    environment = tmp_path_factory.mktemp("environment")
    run([sys.executable, "-m", "venv", "--without-pip", environment], environment)
    commands = environment / "bin"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        commands / "python",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
    ]
    run([*pip, wheel], environment)
    site = next(environment.glob("lib/python*/site-packages"))
    # lines of a .pth file only extend sys.path, behind the wheel: what makes our own install editable stays asleep
    borrowed = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    (site / "borrowed.pth").write_text("".join(f"{place}\n" for place in borrowed))
    return commands


def test_every_file_of_the_packages_is_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.split("/")[0] in PACKAGES}
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()]
    expected = {path.relative_to(ROOT).as_posix() for path in files if "__pycache__" not in path.parts}
    assert "flows/config/recipe/mhim.yaml" in expected
    assert packed == expected


def test_the_installed_wheel_runs_the_demo_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    for folder in run([installed / "python", "-c", FOLDERS], tmp_path).split():
        assert Path(folder).is_relative_to(installed.parent)
    words = ["num_slides=28", "num_new=2", "epochs=2", "encoder=hed-texture", "local_cpus=2"]
    printed = run([installed / "mhim", "demo", "out=demo", *words], tmp_path)
    assert "Research use only" in printed
    for page in ("run/report.html", "predictions/report.html"):
        assert "<svg" in (tmp_path / "demo" / page).read_text() or "<img" in (tmp_path / "demo" / page).read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
