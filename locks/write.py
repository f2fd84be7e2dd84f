"""make lock: writes the files of this folder, which hold a sha256 for every file that may be installed.

constraints.txt says which versions; this says which bytes, of all platforms' wheels as the index lists them. Needs uv
and an index that has PyPI's own torch. Run it after constraints.txt or the extras in pyproject.toml have changed.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
RUN_EXTRAS = ("encoders", "interop", "formats", "xlsx", "mlflow", "openvino", "signing", "view")
BUILD = ("pip", "setuptools", "uv")
AUDIT = ("cyclonedx-bom", "pip-audit", "pip-licenses")
_CUDA = re.compile(r"(torch|triton|nvidia-.*|cuda-.*)==")


def compiled(*options: str, requirements: str = "") -> dict[str, str]:
    """Requirements with their hashes, by `name==version`. `requirements`: what a file named - holds."""
    command = [
        *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--generate-hashes", "--no-header", "--no-annotate"),
        *("--python-version", "3.11", *options),
    ]
    # no wheels of this machine's own: the index's alone are the same for all
    environment = {name: value for name, value in os.environ.items() if name != "UV_FIND_LINKS"}
    exported = subprocess.run(
        command, input=requirements, cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    )
    entries = re.split(r"^(?=\S)", exported.stdout, flags=re.MULTILINE)
    return {entry.split()[0]: entry for entry in entries if entry.strip()}


def write(name: str, about: str, entries: dict[str, str]) -> None:
    text = f"# {about} Written by make lock.\n" + "".join(entries[key] for key in sorted(entries))
    (HERE / name).write_text(text, encoding="utf-8")


def main() -> None:
    pins = ("-c", "constraints.txt")
    extras = [word for extra in RUN_EXTRAS for word in ("--extra", extra)]
    both = compiled("pyproject.toml", *extras, *pins)
    cuda = {key: entry for key, entry in both.items() if _CUDA.match(key)}
    run = {key: entry for key, entry in both.items() if key not in cuda}
    everything = compiled("pyproject.toml", "--extra", "dev", *pins)
    write("run.txt", "What mhim runs with, torch aside (torch-cpu.txt or torch-cuda.txt).", run)
    dev = {key: entry for key, entry in everything.items() if key not in both}
    write("dev.txt", "What tests and checks need beside run.txt.", dev)
    write("torch-cuda.txt", "torch as PyPI has it, with the CUDA libraries that it needs on Linux.", cuda)
    write("build.txt", "What installs and builds.", compiled("-", *pins, requirements="\n".join(BUILD)))
    write(
        "audit.txt",
        "The tools of make sbom and make audit, in an environment of their own.",
        compiled("-", requirements="\n".join(AUDIT)),
    )


if __name__ == "__main__":
    main()
