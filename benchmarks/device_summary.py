"""What benchmarks/device.sh found, as one JSON object on one line.

    python benchmarks/device_summary.py FOLDER DEVICE

Reads parts.jsonl, tests.xml and the figures of every part in FOLDER, writes device.json there and prints it. Ends with
1 if a part failed, a test failed or was skipped, or none ran.
"""

import json
import platform
import sys
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch

PACKAGES = ("torch", "torchvision", "timm", "numpy", "pyarrow", "safetensors")


def describe_machine(device: str) -> dict[str, Any]:
    """The device and the software under the figures."""
    machine: dict[str, Any] = {"device": device, "python": platform.python_version(), "packages": {}}
    for package in PACKAGES:
        try:
            machine["packages"][package] = version(package)
        except PackageNotFoundError:
            machine["packages"][package] = None
    if device == "cuda":
        facts = torch.cuda.get_device_properties(0)
        machine |= {
            "gpu": facts.name,
            "gpu_gib": round(facts.total_memory / 2**30, 1),
            "compute_capability": f"{facts.major}.{facts.minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return machine


def summarise_tests(path: Path) -> dict[str, Any]:
    """How many tests ended how, and which did not pass."""
    outcomes: Counter[str] = Counter()
    named = []
    for case in ElementTree.parse(path).iter("testcase") if path.exists() else ():
        kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
        outcome = next(iter(kinds), "passed")
        outcomes[outcome] += 1
        if outcome != "passed":
            named.append(f"{outcome}: {case.get('name')}")
    return {"outcomes": dict(outcomes), "not_passed": named[:50]}


def read_json(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else []


def main() -> None:
    folder, device = Path(sys.argv[1]), sys.argv[2]
    parts = [json.loads(line) for line in (folder / "parts.jsonl").read_text().splitlines()]
    tests = summarise_tests(folder / "tests.xml")
    summary = {
        "ok": all(part["rc"] == 0 for part in parts) and set(tests["outcomes"]) == {"passed"},
        "machine": describe_machine(device),
        "parts": parts,
        "tests": tests,
        "train_step": read_json(folder / "train_step.json"),
        "draw_masks": read_json(folder / "draw_masks.json"),
        "encode_tiles": read_json(folder / "encode_tiles.json"),
        "feed_encoder": read_json(folder / "feed_encoder.json"),
    }
    line = json.dumps(summary)
    (folder / "device.json").write_text(line + "\n")
    print(line)
    sys.exit(not summary["ok"])


if __name__ == "__main__":
    main()
