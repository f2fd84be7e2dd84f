"""What is sent with a job: the packages as installed here, their requirements, and the files that it names."""

import importlib.metadata
import importlib.util
import json
import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from mhim_core.errors import ConfigError
from mhim_core.fingerprint import canonical_json, fingerprint, sha256

MAX_FOLDER_BYTES = 100 * 2**20
"""Ray refuses a larger working directory."""


class Requirements(NamedTuple):
    """What the shipped packages need where they run."""

    packages: tuple[str, ...]
    """Requirement lines, such as `torch>=2.10,<2.14`."""
    python: str
    """Of Python, such as `>=3.11,<3.13`; empty: any."""


def package_files(packages: Sequence[str]) -> dict[str, Path]:
    """Every file of the packages as Python finds them, by its place below their folder, sorted.

    Bytecode and hidden files are left out. Raises ConfigError for a package that is no folder (a zipped one).
    """
    files = {}
    for package in packages:
        spec = importlib.util.find_spec(package)
        folders = list(spec.submodule_search_locations or ()) if spec is not None else []
        if not folders or not Path(folders[0]).is_dir():
            raise ConfigError(f"package {package} lies in no folder of this machine, so that it cannot be sent")
        root = Path(folders[0])
        for path in root.rglob("*"):
            parts = path.relative_to(root).parts
            hidden = any(part.startswith(".") or part == "__pycache__" for part in parts)
            if path.is_file() and not hidden and path.suffix != ".pyc":
                files["/".join((package, *parts))] = path
    return dict(sorted(files.items()))


def source_digest(packages: Sequence[str]) -> str:
    """One sha256 over every file of the packages: equal where the same code runs."""
    return fingerprint({name: sha256(path.read_bytes()) for name, path in package_files(packages).items()})


@contextmanager
def job_folder(distribution: str, packages: Sequence[str], extra_files: Mapping[str, bytes]) -> Iterator[Path]:
    """A temporary folder of the packages, the distribution's requirements and `extra_files` by their paths.

    Equal inputs give equal bytes, by which Ray names its upload. Raises ConfigError if the folder is too large to be
    sent.
    """
    with tempfile.TemporaryDirectory(prefix="mhim-job-") as name:
        folder = Path(name)
        contents = {place: path.read_bytes() for place, path in package_files(packages).items()} | dict(extra_files)
        contents[_requirements_file(distribution)] = canonical_json(_installed_requirements(distribution))
        num_bytes = sum(map(len, contents.values()))
        if num_bytes > MAX_FOLDER_BYTES:
            raise ConfigError(
                f"code and tables of this job are {num_bytes / 2**20:.0f} MiB, and Ray takes "
                f"{MAX_FOLDER_BYTES / 2**20:.0f}; put the tables at s3://"
            )
        for place, data in contents.items():
            path = folder / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        yield folder


def requirements(distribution: str, package: str) -> Requirements:
    """The requirements of the code that runs here: those sent with it, else those of its installation."""
    spec = importlib.util.find_spec(package)
    assert spec is not None, package
    assert spec.origin is not None, package
    shipped = Path(spec.origin).parents[1] / _requirements_file(distribution)
    if shipped.is_file():
        document = json.loads(shipped.read_bytes())
        return Requirements(tuple(document["packages"]), document["python"])
    return _installed_requirements(distribution)


def unmet(needed: Requirements) -> str:
    """The first requirement that this machine does not meet, in a phrase; empty: it meets them all."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    python = platform.python_version()
    if not SpecifierSet(needed.python).contains(python, prereleases=True):
        return f"Python {python}, and Python{needed.python} is needed"
    for line in needed.packages:
        requirement = Requirement(line)
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            return f"no {requirement.name}, and {line} is needed"
        if not requirement.specifier.contains(version, prereleases=True):
            return f"{requirement.name} {version}, and {line} is needed"
    return ""


def installed_versions(needed: Requirements) -> dict[str, str]:
    """What is installed here of Python and the required packages."""
    from packaging.requirements import Requirement

    version_of = {"python": platform.python_version()}
    for line in needed.packages:
        name = Requirement(line).name
        try:
            version_of[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            version_of[name] = ""
    return version_of


def _requirements_file(distribution: str) -> str:
    return f"{distribution}-requirements.json"


def _installed_requirements(distribution: str) -> Requirements:
    """Without the extras, which only some encoders and formats need."""
    from packaging.requirements import Requirement

    try:
        metadata = importlib.metadata.metadata(distribution)
    except importlib.metadata.PackageNotFoundError:
        return Requirements((), "")
    lines = [str(line) for line in metadata.get_all("Requires-Dist") or []]
    parsed = {line: Requirement(line) for line in lines}
    chosen = (
        line
        for line, requirement in parsed.items()
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    )
    return Requirements(tuple(sorted(chosen)), "".join(map(str, metadata.get_all("Requires-Python") or [])))
