"""What travels with a job: the installed packages and nothing of the current folder, the same bytes every time."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster import shipping
from cluster.shipping import (
    Requirements,
    installed_versions,
    job_folder,
    package_files,
    requirements,
    source_digest,
    unmet,
)
from mhim_core.errors import ConfigError

OURS = ("flows", "mhim_core", "cluster")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """package("site", "x = 1") → a package `shipped_toy` installed below that folder."""

    def make(site: str, source: str) -> Path:
        folder = tmp_path / site / "shipped_toy"
        for name in ("__init__.py", "part/__init__.py", "conf/a.yaml", "__pycache__/a.cpython-311.pyc", ".secret"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(source)
        monkeypatch.syspath_prepend(str(tmp_path / site))
        sys.modules.pop("shipped_toy", None)
        importlib.invalidate_caches()
        return folder

    return make


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_package_is_taken_from_where_python_finds_it_without_bytecode_and_hidden_files(
    package: Callable[[str, str], Path],
) -> None:
    folder = package("site", "x = 1")
    files = package_files(["shipped_toy"])
    assert list(files) == ["shipped_toy/__init__.py", "shipped_toy/conf/a.yaml", "shipped_toy/part/__init__.py"]
    assert all(path.is_relative_to(folder) for path in files.values())


def test_the_same_code_has_one_digest_wherever_it_lies(package: Callable[[str, str], Path]) -> None:
    package("here", "x = 1")
    first = source_digest(["shipped_toy"])
    package("there", "x = 1")
    assert source_digest(["shipped_toy"]) == first
    package("elsewhere", "x = 2")
    assert source_digest(["shipped_toy"]) != first


def test_ours_is_sent_whole_with_presets_and_templates_and_nothing_of_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    with job_folder("mhim", OURS, {"inputs/cohort-0/my.csv": b"path\n"}) as folder:
        names = contents(folder)
    assert not folder.exists()
    assert {"flows/cli.py", "flows/config/recipe/mhim.yaml", "cluster/jobs.py", "mhim_core/types.py"} <= names.keys()
    assert any(name.endswith(".j2") for name in names)
    assert names["inputs/cohort-0/my.csv"] == b"path\n"
    assert {name.partition("/")[0] for name in names} == {*OURS, "inputs", "mhim-requirements.json"}
    assert not any("test" in part or part == "__pycache__" for name in names for part in name.split("/")[:-1])


def test_two_folders_of_the_same_are_the_same_bytes() -> None:
    with job_folder("mhim", OURS, {}) as first, job_folder("mhim", OURS, {}) as second:
        assert contents(first) == contents(second)


def test_what_ray_would_refuse_as_too_large_is_refused_before(
    package: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    package("site", "x = 1")
    monkeypatch.setattr(shipping, "MAX_FOLDER_BYTES", 2**20)
    large = {"inputs/a.csv": bytes(2**20 + 1)}
    with pytest.raises(ConfigError, match=r"are 1 MiB, and Ray takes 1; put the tables at s3://"):
        job_folder("mhim", ["shipped_toy"], large).__enter__()


def test_a_package_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="no_such_package"):
        package_files(["no_such_package"])


def test_the_requirements_are_those_of_the_installation_without_extras() -> None:
    required = requirements("mhim", "flows")
    names = [line.split(">")[0].split("<")[0].split("[")[0] for line in required.packages]
    assert "ray" in names
    assert "timm" not in names
    assert "pytest" not in names
    assert unmet(required) == ""
    assert set(installed_versions(required)) == {"python", *names}
    assert requirements("no-such-distribution", "flows") == Requirements((), "")


def test_shipped_code_brings_its_requirements_along(
    package: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    package("site", "x = 1")
    with job_folder("mhim", ["shipped_toy"], {}) as folder:
        monkeypatch.syspath_prepend(str(folder))
        sys.modules.pop("shipped_toy", None)
        importlib.invalidate_caches()
        assert requirements("mhim", "shipped_toy") == requirements("mhim", "flows")


@pytest.mark.parametrize(
    ("needed", "phrase"),
    [
        (Requirements(("ray>=2.60,<2.64",), ">=99"), "Python 3."),
        (Requirements(("ray>=99",), ""), "ray 2."),
        (
            Requirements(("ray[default]>=2.60", "no-such-thing>=1"), ""),
            "no no-such-thing, and no-such-thing>=1 is needed",
        ),
    ],
)
def test_what_is_missing_is_told_with_what_is_there_and_what_is_needed(needed: Requirements, phrase: str) -> None:
    assert phrase in unmet(needed)
    assert "is needed" in unmet(needed)
