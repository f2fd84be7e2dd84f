"""Memory that a training worker frees is there for its next bag, as long as it is no larger."""

import subprocess
import sys

_MEASURED = """
import resource
import torch
from mhim_core.train.allocation import keep_freed_memory

half = torch.zeros(12_000, 1_024, dtype=torch.float16)

def faults(num):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(num):
        half.to(torch.float32)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if not keep_freed_memory():
    print("-")
else:
    faults(30)  # small things come to lie between the first ones
    print(faults(4))
"""


def test_the_next_bag_of_that_size_takes_no_new_pages() -> None:
    ended = subprocess.run([sys.executable, "-c", _MEASURED], capture_output=True, text=True, check=True)
    found = ended.stdout.split()
    if found != ["-"]:  # a C library other than glibc
        num_pages = 4 * 12_000 * 1_024 * 4 // 4096
        assert int(found[0]) < num_pages // 20
