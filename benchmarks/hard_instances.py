"""Does masking find the instances that plain attention overlooks? Synthetic bags of known truth.

    python benchmarks/hard_instances.py [--seeds 3]

Positive bags hold a few salient instances (far along one direction) and some subtle ones (a little along another). A
plain aggregator learns the salient ones alone and misses bags that have only subtle ones; MHIM hides what is salient.
Prints per seed and stage the AUROC of all positives, of subtle-only bags and of salient-only bags against the
negatives, and the share of subtle instances among the ten most attended of subtle-only bags. A minute or two a seed.
"""

import argparse
import tempfile
from typing import NamedTuple

import torch

from mhim_core.metrics import auroc
from mhim_core.mil.options import MhimOptions, ModelOptions
from mhim_core.storage import LocalStorage
from mhim_core.train.checkpoint import load_model, predict_bag
from mhim_core.train.context import SingleProcess
from mhim_core.train.loop import run_fits
from mhim_core.train.options import FitExecution, FitOptions, Selection
from mhim_core.train.plan import FoldBags, LabelledBag, Stage, TrainPlan, plan_fits
from mhim_core.train.results import read_model
from mhim_core.types import BagId

D_IN = 64


class Kind(NamedTuple):
    """What a bag holds beside background, and how many bags of it the test set has."""

    salient: bool
    subtle: bool
    num_test: int


NEGATIVE, BOTH, SUBTLE, SALIENT = (
    Kind(False, False, 120),
    Kind(True, True, 60),
    Kind(False, True, 60),
    Kind(True, False, 40),
)


class Generator:
    """Draws bags; remembers which instances are subtle. One seed redraws everything."""

    def __init__(self, seed: int) -> None:
        self._random = torch.Generator().manual_seed(seed)
        centres = self._normal(8, D_IN)
        self._centres = 3 * centres / centres.norm(dim=1, keepdim=True)
        self._u, self._v = torch.linalg.qr(self._normal(D_IN, 2)).Q.T
        self.dim = D_IN
        self.bags: dict[BagId, torch.Tensor] = {}
        self.subtle: dict[BagId, torch.Tensor] = {}

    def lengths(self) -> dict[BagId, int]:
        return {bag_id: len(x) for bag_id, x in self.bags.items()}

    def read(self, bag_id: BagId) -> torch.Tensor:
        return self.bags[bag_id].clone()

    def draw(self, split: str, kind: Kind, num: int) -> list[LabelledBag]:
        """`num` new bags of that kind."""
        return [self._draw_one(split, kind) for _ in range(num)]

    def _draw_one(self, split: str, kind: Kind) -> LabelledBag:
        num = self._integer(200, 400)
        which = torch.randint(8, (num,), generator=self._random)
        x = self._centres[which] + self._normal(num, D_IN)
        order = torch.randperm(num, generator=self._random)
        num_salient = self._integer(4, 6) if kind.salient else 0
        num_subtle = self._integer(10, 16) if kind.subtle else 0
        salient, subtle = order[:num_salient], order[num_salient : num_salient + num_subtle]
        x[salient] += 8 * self._u
        x[subtle] += 2.5 * self._v
        bag_id = BagId(f"{split}-{len(self.bags):04d}")
        self.bags[bag_id], self.subtle[bag_id] = x, subtle
        return LabelledBag(bag_id, int(kind.salient or kind.subtle))

    def _normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self._random)

    def _integer(self, low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=self._random))


def run_seed(seed: int, mhim: MhimOptions, epochs: int) -> None:
    bags = Generator(seed)
    train = (*bags.draw("train", NEGATIVE, 100), *bags.draw("train", BOTH, 100))
    validation = (*bags.draw("validation", NEGATIVE, 20), *bags.draw("validation", BOTH, 20))
    test = {kind: bags.draw("test", kind, kind.num_test) for kind in (NEGATIVE, BOTH, SUBTLE, SALIENT)}
    plan = TrainPlan(
        fits=plan_fits([FoldBags(0, train, validation)], Stage.mhim, 2, seed),
        d_in=D_IN,
        classes=("negative", "positive"),
        model=ModelOptions(embed_dim=64),
        mhim=mhim,
        fit=FitOptions(epochs=epochs, learning_rate=5e-4, selection=Selection.last, seed=seed),
        execution=FitExecution(checkpoint_every=0),
    )
    with tempfile.TemporaryDirectory() as folder:
        storage = LocalStorage(folder)
        for result in run_fits(plan, bags, storage, SingleProcess()):
            loaded = load_model(read_model(storage, result))
            score, top_ten = {}, []
            for kind, kind_bags in test.items():
                predictions = [
                    predict_bag(loaded.student, bags.read(bag.bag_id), loaded.card.append_recycled) for bag in kind_bags
                ]
                score[kind] = [float(prediction.probabilities_C.double()[1]) for prediction in predictions]
                if kind is SUBTLE:
                    for bag, prediction in zip(kind_bags, predictions, strict=True):
                        top = prediction.attention_N.topk(10).indices
                        top_ten.append(float(torch.isin(top, bags.subtle[bag.bag_id]).double().mean()))
            against = {
                name: auroc([0] * 120 + [1] * len(positives), score[NEGATIVE] + positives)
                for name, positives in (
                    ("all", score[BOTH] + score[SUBTLE]),
                    ("subtle", score[SUBTLE]),
                    ("salient", score[SALIENT]),
                )
            }
            numbers = ", ".join(f"{name} {value:.3f}" for name, value in against.items())
            print(f"seed {seed} {result.stage:5}: {numbers}, top-ten {sum(top_ten) / len(top_ten):.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()
    for seed in range(options.seeds):
        run_seed(seed, MhimOptions(), options.epochs)


if __name__ == "__main__":
    main()
