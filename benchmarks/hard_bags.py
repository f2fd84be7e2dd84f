"""Synthetic bags in which some instances are hard: the benchmark's generator, and how a model is scored on them.

Instances have 64 features. Background: eight equiprobable Gaussians with means of norm 3 and unit noise. u and v are
orthogonal random unit vectors. A salient instance is background + 8u, a subtle one background + 2.5v. One seed redraws
everything: centres, directions, bags.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from mhim_core.metrics import auroc
from mhim_core.task import ClassTarget, Task, TaskKind
from mhim_core.train.model_file import ModelOutput
from mhim_core.train.plan import LabelledBag
from mhim_core.types import BagId

D_IN = 64
TASK = Task(kind=TaskKind.classification, classes=("negative", "positive"))
TOP = 10
"""Instances of a bag whose attention is looked at."""


class Kind(NamedTuple):
    """What a bag holds beside background: 4 to 6 salient instances, 10 to 16 subtle ones."""

    salient: bool
    subtle: bool


NEGATIVE, BOTH, SUBTLE, SALIENT = Kind(False, False), Kind(True, True), Kind(False, True), Kind(True, False)
NUM_TEST = {NEGATIVE: 120, BOTH: 60, SUBTLE: 60, SALIENT: 40}


@dataclass(frozen=True, kw_only=True)
class Regime:
    """What is learned from. The default is the benchmark; the test set is the same kinds of bags in every regime."""

    positive: Kind = BOTH
    """What the positive bags of training and validation hold."""
    salient_shift: float = 8.0
    subtle_shift: float = 2.5


class Generator:
    """Draws bags and remembers which instances are which; a `BagSource` of the bags drawn so far."""

    def __init__(self, seed: int, regime: Regime = Regime()) -> None:
        self._random = torch.Generator().manual_seed(seed)
        self._regime = regime
        centres = self._normal(8, D_IN)
        self._centres = 3 * centres / centres.norm(dim=1, keepdim=True)
        self._u, self._v = torch.linalg.qr(self._normal(D_IN, 2)).Q.T
        self.dim = D_IN
        self.bags: dict[BagId, torch.Tensor] = {}
        self.salient: dict[BagId, torch.Tensor] = {}
        self.subtle: dict[BagId, torch.Tensor] = {}

    def lengths(self) -> dict[BagId, int]:
        return {bag_id: len(x) for bag_id, x in self.bags.items()}

    def read(self, bag_id: BagId) -> torch.Tensor:
        return self.bags[bag_id].clone()

    def draw(self, split: str, kind: Kind, num: int) -> tuple[LabelledBag, ...]:
        """`num` new bags of that kind."""
        return tuple(self._draw_one(split, kind) for _ in range(num))

    def _draw_one(self, split: str, kind: Kind) -> LabelledBag:
        num = self._integer(200, 400)
        which = torch.randint(8, (num,), generator=self._random)
        x = self._centres[which] + self._normal(num, D_IN)
        order = torch.randperm(num, generator=self._random)
        num_salient = self._integer(4, 6) if kind.salient else 0
        num_subtle = self._integer(10, 16) if kind.subtle else 0
        salient, subtle = order[:num_salient], order[num_salient : num_salient + num_subtle]
        x[salient] += self._regime.salient_shift * self._u
        x[subtle] += self._regime.subtle_shift * self._v
        bag_id = BagId(f"{split}-{len(self.bags):04d}")
        self.bags[bag_id], self.salient[bag_id], self.subtle[bag_id] = x, salient, subtle
        return LabelledBag(bag_id, ClassTarget(int(kind.salient or kind.subtle)))

    def _normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self._random)

    def _integer(self, low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=self._random))


class DrawnSet(NamedTuple):
    """All bags of one seed."""

    source: Generator
    train: tuple[LabelledBag, ...]
    validation: tuple[LabelledBag, ...]
    test: dict[Kind, tuple[LabelledBag, ...]]


def draw_set(seed: int, regime: Regime) -> DrawnSet:
    """100 + 100 bags to train on, 20 + 20 to validate, 280 to test."""
    source = Generator(seed, regime)
    train = source.draw("train", NEGATIVE, 100) + source.draw("train", regime.positive, 100)
    validation = source.draw("validation", NEGATIVE, 20) + source.draw("validation", regime.positive, 20)
    return DrawnSet(source, train, validation, {kind: source.draw("test", kind, n) for kind, n in NUM_TEST.items()})


def positive_probability(prediction: ModelOutput) -> float:
    """Of two classes; the softmax in float32 and the rest in float64, so that what saturates ties."""
    return float(prediction.logits_C.softmax(dim=0).double()[1])


class Scores(NamedTuple):
    """One model on the test bags of one seed; AUROC against the negatives."""

    all: float
    """Of the positives with both and with subtle instances alone."""
    subtle: float
    salient: float
    top10: float
    """Share of subtle instances among the ten most attended of the subtle-only bags."""


def score_model(predict: Callable[[torch.Tensor], ModelOutput], drawn: DrawnSet) -> Scores:
    """`predict` takes a bag's N × 64 instances."""
    positive: dict[Kind, list[float]] = {}
    shares = []
    for kind, bags in drawn.test.items():
        predictions = [predict(drawn.source.read(bag.bag_id)) for bag in bags]
        positive[kind] = [positive_probability(prediction) for prediction in predictions]
        if kind == SUBTLE:
            tops = [prediction.attention_N.topk(TOP).indices for prediction in predictions]
            shares = [
                float(torch.isin(top, drawn.source.subtle[bag.bag_id]).double().mean())
                for top, bag in zip(tops, bags, strict=True)
            ]

    def against_negatives(scores: list[float]) -> float:
        return auroc([0] * NUM_TEST[NEGATIVE] + [1] * len(scores), positive[NEGATIVE] + scores)

    return Scores(
        all=against_negatives(positive[BOTH] + positive[SUBTLE]),
        subtle=against_negatives(positive[SUBTLE]),
        salient=against_negatives(positive[SALIENT]),
        top10=sum(shares) / len(shares),
    )
