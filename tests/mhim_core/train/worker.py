"""One rank of a gloo group, run as a script by test_workers: rank, world size, folder.

Reads plan.pickle and bags.safetensors of the folder; writes to its `out`.
"""

import os
import pickle
import sys
import traceback
from datetime import timedelta
from pathlib import Path

import safetensors.torch
import torch
import torch.distributed as dist

from mhim_core.storage import LocalStorage
from mhim_core.train.context import ProcessGroupContext
from mhim_core.train.loop import run_fits


class Bags:
    def __init__(self, path: Path) -> None:
        self.bags = safetensors.torch.load_file(path)
        self.dim = next(iter(self.bags.values())).shape[1]

    def lengths(self) -> dict[str, int]:
        return {bag_id: len(x) for bag_id, x in self.bags.items()}

    def read(self, bag_id: str) -> torch.Tensor:
        return self.bags[bag_id].clone()


def main(rank: int, world_size: int, folder: Path, fault: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=200),
    )
    context = ProcessGroupContext()
    if fault == "drift" and rank == 1:
        gather = context.all_gather
        # a worker whose gradients are off by a digit
        context.all_gather = lambda row_C: gather(row_C) + 1e-6  # type: ignore[method-assign]
    plan = pickle.loads((folder / "plan.pickle").read_bytes())
    root = folder / "out"
    if fault == "storage" and rank == 0:
        root.write_text("a file where the folder should be")
    try:
        run_fits(plan, Bags(folder / "bags.safetensors"), LocalStorage(root), context)  # type: ignore[arg-type]
    except Exception as error:
        (folder / f"error-{rank}").write_text(f"{type(error).__name__}: {error}")
        raise
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    code = 1
    try:
        main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
        code = 0
    except Exception:
        traceback.print_exc()
    # without the interpreter's own end: on a busy machine gloo's threads may outlive their owner there, and abort
    sys.stderr.flush()
    os._exit(code)
