"""Fixed arithmetic for every fit on a GPU: the same bits from run to run and after a resume, no TF32.

Torch's defaults promise neither: sums over scattered rows are atomic there (`index_select`'s gradient, which DSMIL and
CLAM use), the attention's backward pass splits its keys as it pleases, and convolutions round float32 to TF32.
On a CPU there is nothing to do.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

CUBLAS_WORKSPACE = ":4096:8"
"""8 buffers of 4 MiB: with one workspace per stream cuBLAS sums in the same order every time."""


@contextmanager
def fixed_arithmetic(device: torch.device) -> Iterator[None]:
    """On CUDA deterministic kernels at full precision inside; what was set before is restored.

    An operation without a deterministic kernel raises torch's RuntimeError, which names it. cuBLAS reads its workspace
    from the environment once per process: where CUBLAS_WORKSPACE_CONFIG is unset it is set here, for good.
    """
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE)
    memory: Any = torch.utils.deterministic  # its one setting is a property that mypy cannot see
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    filled, precision = memory.fill_uninitialized_memory, torch.get_float32_matmul_precision()
    torch.use_deterministic_algorithms(True)
    # the mode also fills all new memory with NaN, which is for debugging and costs a pass over it
    memory.fill_uninitialized_memory = False
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        memory.fill_uninitialized_memory = filled
        torch.set_float32_matmul_precision(precision)
