"""Most memory that a process takes for one large bag, from its committed file: read, predicted by a model, trained on.

    python benchmarks/large_bag.py [--instances 200000] [--dim 512] [--aggregators abmil …] [--cases read predict …]

Prints one line per case, each measured in a process of its own with one thread: GiB of resident memory at its peak
(`ru_maxrss`), less what it was before the bag, and a digest of the resulting numbers, which shows whether a change of
the code changed their bits. `hold` is the features alone, as float32.
"""

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CASES = ("hold", "read", "predict", "train", "mine")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--cache-gib", type=float, default=4.0)
    parser.add_argument("--aggregators", nargs="+", default=["abmil"])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--inside", nargs=3, metavar=("CASE", "AGGREGATOR", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        measure(*args.inside, args.instances, args.dim, args.cache_gib)
        return
    with tempfile.TemporaryDirectory() as folder:
        for aggregator in args.aggregators:
            for case in ["write", *args.cases]:
                words = ["--instances", args.instances, "--dim", args.dim, "--cache-gib", args.cache_gib]
                command = [sys.executable, __file__, *map(str, words), "--inside", case, aggregator, folder]
                environment = os.environ | {"OMP_NUM_THREADS": "1"}
                line = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
                if case != "write":
                    print(line, end="", flush=True)


def measure(case: str, aggregator: str, folder: str, num: int, dim: int, cache_gib: float) -> None:
    """Run one case in this process and print its line."""
    import torch

    torch.set_num_threads(1)
    from read_bag import make_features
    from train_step import make_state

    from mhim_core.storage import LocalStorage
    from mhim_core.store.bags import ParquetBags
    from mhim_core.store.commit import commit
    from mhim_core.store.feature_sets import FeatureSet
    from mhim_core.task import ClassTarget
    from mhim_core.train.context import SingleProcess
    from mhim_core.train.feed import BagFeed
    from mhim_core.train.inference import Voter, predict_tables
    from mhim_core.train.plan import LabelledBag, Stage
    from mhim_core.train.sampler import Sampled
    from mhim_core.train.step import train_step
    from mhim_core.types import BagId

    card = {"id": "benchmark", "dim": dim}
    storage, pinned = LocalStorage(folder), Path(folder, "record")
    if case == "write":
        if not pinned.exists():
            feature_set = FeatureSet(tiling={}, encoder=card, encoder_identity=card)
            record = commit(storage, feature_set, make_features(num, feature_set)).record
            pinned.write_bytes(json.dumps({"key": record.commit_key}).encode())
        return
    from mhim_core.store.record import CommitRecord

    record = CommitRecord.from_json(storage.get(json.loads(pinned.read_bytes())["key"]), "record")
    bag_id = BagId(record.slide_id)
    bags = ParquetBags(storage, {record.slide_id: record}, cache_gib)
    state = make_state(aggregator, Stage.mhim if case == "mine" else Stage.plain, dim, torch.device("cpu"))
    before, start_s = peak_bytes(), time.perf_counter()
    result: torch.Tensor
    if case == "hold":
        result = torch.ones(num, dim).sum()
    elif case == "read":
        result = bags.read(bag_id).sum()
    elif case == "predict":
        prediction = predict_tables([bags.read_table(bag_id)], [Voter(state.student.eval(), False, state.setup.task)])
        result = torch.from_numpy(prediction.logits_MC)
    else:
        feed = BagFeed(bags, state.setup, torch.device("cpu"))
        turn = Sampled(LabelledBag(bag_id, ClassTarget(1)))
        for epoch in range(2):
            train_step(state, [feed.draw(turn, epoch)], 1, SingleProcess())
        result = torch.cat([tensor.flatten().double() for tensor in state.models().values()])
    line = {
        "case": case,
        "aggregator": aggregator,
        "gib": round((peak_bytes() - before) / 2**30, 2),
        "seconds": round(time.perf_counter() - start_s, 2),
        "digest": hashlib.sha256(result.detach().numpy().tobytes()).hexdigest()[:12],
    }
    print(json.dumps(line))


def peak_bytes() -> int:
    """Most resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
