"""Makes `import torchvision` (and with it timm) work where torchvision's compiled operators are missing.

torchvision's wheel on the package index is built for CUDA torch. Beside a CPU build of torch its compiled library does
not load, and the import fails with "operator torchvision::nms does not exist": its modules register fake
implementations for `nms` and `qnms` without asking whether the operators are there. timm imports torchvision for image
transforms only, so declaring the two operators' schemas beforehand, without any implementation, is enough; a call to
either would still raise.

Used by the timm encoders only, and it does nothing where the operators load or torchvision is imported already.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import torch

_library: torch.library.Library | None = None  # the declarations live as long as this object


def prepare_torchvision() -> None:
    """Declare the operators where they are missing, once. Raises ModuleNotFoundError without torchvision."""
    global _library
    if _library is not None or "torchvision" in sys.modules:
        return
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("No module named 'torchvision'", name="torchvision")
    if not _compiled_operators_load(Path(spec.origin).parent):
        _library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            _library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def _compiled_operators_load(package: Path) -> bool:
    """Whether torchvision's own library loads beside this torch; loading it twice is harmless."""
    for path in sorted([*package.glob("_C*.so"), *package.glob("_C*.pyd")]):
        try:
            torch.ops.load_library(path)
        except (OSError, ImportError):
            return False
        return True
    return False
