"""Why DSMIL stays below its authors' figures on classic sets: each difference of protocol by itself.

    python benchmarks/dsmil_protocol.py --data FOLDER [--sets Fox,Elephant] [--seeds 3] [--variants ours,…] [--out FILE]

FOLDER holds the .npz files of `classic_bags.py`, whose folds, features and options are `ours`. A variant changes one of
them; `network` is what the authors' released code trains for these sets: one output, one linear map each for queries
and values, no embedding, no dropout, the mean of the losses of the largest instance and of the bag (its weight for
positives is 1, as the folds have as many positive bags as negative ones), Adam 2e-4 with betas (.5, .9), 40 epochs,
bags in one order, the bag's stream as the prediction. (The code says 80 epochs, the paper 40.) Folds are ours
everywhere: stratified, a twentieth of the rest held out for validation.

All folds of all seeds are trained in lockstep, bag by bag, with their weights stacked: the arithmetic of the aggregator
(checked against it before each run) in a tenth of the time, but with dropout drawn otherwise. After every epoch each
fold's test bags are scored, and the accuracies of each rule follow from the same numbers:

- last: the last epoch at probability .5. Nothing is chosen; this is what `classic_bags.py` reports.
- validated: the epoch that is best on the validation bags, at .5; ties go to the earlier epoch.
- last, threshold: at the threshold that is best on the test fold.
- best: the epoch that is best on the test fold, at .5.
- best, threshold: both, as the released code reports it. What is chosen on test bags is no estimate of anything new.

Means over folds and seeds, ± the standard deviation of the seeds' means. CPU seconds are of one thread.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from classic_bags import FIT, MODEL, SPLIT, ClassicSet
from cross_validation import TASK
from torch import Tensor

from mhim_core.cohort.splits import Split, make_splits
from mhim_core.mil.aggregators.dsmil_options import DsmilQuery
from mhim_core.mil.model import build_model
from mhim_core.mil.model_options import ModelOptions
from mhim_core.store.interop import ClassicBags
from mhim_core.task import ClassTarget
from mhim_core.train.plan import LabelledBag
from mhim_core.train.sampler import global_batches
from mhim_core.types import BagId

RULES = ("last", "validated", "last, threshold", "best", "best, threshold")
QUERY_DIM = 128


class Variant(NamedTuple):
    """What a fit is made of; the defaults are `classic_bags.py`'s for these sets."""

    query: DsmilQuery = DsmilQuery.mlp
    dropout: float = MODEL.dropout
    epochs: int = FIT.epochs // 2
    learning_rate: float = FIT.learning_rate
    betas: tuple[float, float] = (0.9, 0.999)
    standardised: bool = True
    shuffled: bool = True
    """Bags in a new order in each epoch."""
    released: bool = False
    """The released code's network, loss and prediction."""


AS_RELEASED = Variant(released=True, dropout=0.0, epochs=40, learning_rate=2e-4, betas=(0.5, 0.9), shuffled=False)
VARIANTS = {
    "ours": Variant(),
    "raw features": Variant(standardised=False),
    "no dropout": Variant(dropout=0.0),
    "their Adam": Variant(learning_rate=2e-4, betas=(0.5, 0.9)),
    "40 epochs": Variant(epochs=40),
    "one order": Variant(shuffled=False),
    "query=linear": Variant(query=DsmilQuery.linear),
    "network": AS_RELEASED,
    "network, raw": AS_RELEASED._replace(standardised=False),
}


class Bags(NamedTuple):
    """A bag of each of M fits, padded to the longest."""

    x_MNF: Tensor
    is_real_MN: Tensor
    label_M: Tensor


class Fold(NamedTuple):
    """One fit's bags; each part in the order of the table."""

    seed: int
    train: list[tuple[BagId, Tensor, int]]
    validation: list[tuple[BagId, Tensor, int]]
    test: list[tuple[BagId, Tensor, int]]


class StackedDsmil:
    """M models' weights stacked, each of a tensor's first axis."""

    def __init__(self, variant: Variant, folds: Sequence[Fold], generator: torch.Generator) -> None:
        self.variant, self.generator = variant, generator
        d_in = folds[0].train[0][1].shape[1]
        start = {seed: self._start(d_in, seed) for seed in {fold.seed for fold in folds}}
        names = next(iter(start.values())).keys()
        stacked = {name: torch.stack([start[fold.seed][name] for fold in folds]) for name in names}
        self.weights = {name: tensor.clone().requires_grad_() for name, tensor in stacked.items()}

    def _start(self, d_in: int, seed: int) -> dict[str, Tensor]:
        if not self.variant.released:
            model = build_model(d_in, 2, self.options(), seed=f"{seed}/plain")
            return {name.removeprefix("aggregator."): tensor for name, tensor in model.state_dict().items()}
        generator = torch.Generator().manual_seed(seed)
        layers = {"instance_head": 1, "query": QUERY_DIM, "value": d_in, "bag": 1}
        drawn = {}
        for name, width in layers.items():  # as torch's Linear starts
            drawn[f"{name}.weight"] = (2 * torch.rand(width, d_in, generator=generator) - 1) * d_in**-0.5
            drawn[f"{name}.bias"] = (2 * torch.rand(width, generator=generator) - 1) * d_in**-0.5
        return drawn

    def options(self) -> ModelOptions:
        return ModelOptions(aggregator="dsmil", embed_dim=MODEL.embed_dim, dsmil_query=self.variant.query)

    def forward(self, bags: Bags, *, is_training: bool = False) -> tuple[Tensor, Tensor]:
        """The logits of the bag's stream and of the largest instances (M×C each)."""
        h_MND = bags.x_MNF if self.variant.released else F.gelu(self._linear("embed", bags.x_MNF))
        if is_training and self.variant.dropout:
            kept = torch.rand(h_MND.shape, generator=self.generator) >= self.variant.dropout
            h_MND = h_MND * kept / (1 - self.variant.dropout)
        instance_MNC = self._linear("instance_head", h_MND).masked_fill(~bags.is_real_MN[:, :, None], -torch.inf)
        largest = instance_MNC.max(dim=1)
        query_MNQ = self._query(h_MND)
        critical_MCQ = query_MNQ.gather(1, largest.indices[:, :, None].expand(-1, -1, query_MNQ.shape[2]))
        energy_MCN = critical_MCQ @ query_MNQ.transpose(1, 2)
        if self.variant.released or self.variant.query is DsmilQuery.mlp:
            energy_MCN = energy_MCN / QUERY_DIM**0.5
        attention_MCN = energy_MCN.masked_fill(~bags.is_real_MN[:, None], -torch.inf).softmax(dim=2)
        return self._bag_logits(attention_MCN @ self._value(h_MND)), largest.values

    def loss(self, bags: Bags) -> Tensor:
        """Summed over the fits, whose weights have nothing in common."""
        bag_MC, largest_MC = self.forward(bags, is_training=True)
        if not self.variant.released:
            return F.cross_entropy((bag_MC + largest_MC) / 2, bags.label_M, reduction="sum")
        both_M2 = torch.cat([bag_MC, largest_MC], dim=1)
        target_M2 = bags.label_M[:, None].expand(-1, 2).to(both_M2.dtype)
        return F.binary_cross_entropy_with_logits(both_M2, target_M2, reduction="sum") / 2

    @torch.no_grad()
    def positive(self, bags: Bags) -> Tensor:
        """Each fit's probability of class 1."""
        bag_MC, largest_MC = self.forward(bags)
        if self.variant.released:
            return bag_MC[:, 0].sigmoid()
        return ((bag_MC + largest_MC) / 2).softmax(dim=1)[:, 1]

    def check(self, bags: Bags) -> None:
        """The first fit's logits are those of the model with its weights."""
        if self.variant.released:
            return
        model = build_model(bags.x_MNF.shape[2], 2, self.options(), seed="any")
        names = model.state_dict()
        model.load_state_dict({name: self.weights[name.removeprefix("aggregator.")][0].detach() for name in names})
        with torch.no_grad():
            bag_MC, largest_MC = self.forward(bags)
            expected = model(bags.x_MNF[0][bags.is_real_MN[0]]).logits_C
        torch.testing.assert_close((bag_MC + largest_MC)[0] / 2, expected, rtol=1e-4, atol=1e-5)

    def _linear(self, name: str, x_MND: Tensor) -> Tensor:
        product_MNP = x_MND @ self.weights[f"{name}.weight"].transpose(1, 2)
        bias_MP = self.weights.get(f"{name}.bias")
        return product_MNP if bias_MP is None else product_MNP + bias_MP[:, None]

    def _query(self, h_MND: Tensor) -> Tensor:
        if self.variant.released or self.variant.query is DsmilQuery.linear:
            return self._linear("query", h_MND)
        return self._linear("query.2", self._linear("query.0", h_MND).relu()).tanh()

    def _value(self, h_MND: Tensor) -> Tensor:
        if self.variant.released:
            return self._linear("value", h_MND)
        return h_MND if self.variant.query is DsmilQuery.linear else self._linear("value.0", h_MND).relu()

    def _bag_logits(self, feature_MCD: Tensor) -> Tensor:
        if self.variant.released:
            return self._linear("bag", feature_MCD)[:, :, 0]
        if self.variant.query is DsmilQuery.linear:
            return (feature_MCD * self.weights["head.weight"]).sum(dim=2) + self.weights["head.bias"]
        return (
            torch.einsum("mocd,mcd->mo", self.weights["bag_head.weight"], feature_MCD) + self.weights["bag_head.bias"]
        )


def side_by_side(bags: Sequence[tuple[BagId, Tensor, int]]) -> Bags:
    """One bag of each fit."""
    x_MNF = torch.nn.utils.rnn.pad_sequence([x_NF for _, x_NF, _ in bags], batch_first=True)
    lengths_M = torch.tensor([len(x_NF) for _, x_NF, _ in bags])
    is_real_MN = torch.arange(x_MNF.shape[1]) < lengths_M[:, None]
    return Bags(x_MNF, is_real_MN, torch.tensor([label for *_, label in bags]))


def fit(folds: Sequence[Fold], variant: Variant) -> list[list[dict[str, list[float]]]]:
    """Of each fold after each epoch the probabilities of its `test` and `validation` bags."""
    model = StackedDsmil(variant, folds, torch.Generator().manual_seed(0))
    model.check(side_by_side([fold.train[0] for fold in folds]))
    optimizer = torch.optim.Adam(
        model.weights.values(), lr=variant.learning_rate, betas=variant.betas, weight_decay=FIT.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, variant.epochs)
    parts = {"test": [list(bags) for bags in zip(*(fold.test for fold in folds), strict=True)]}
    parts["validation"] = [list(bags) for bags in zip(*(fold.validation for fold in folds), strict=True)]
    by_fold: list[list[dict[str, list[float]]]] = [[] for _ in folds]
    for epoch in range(variant.epochs):
        orders = [order_of(fold, epoch if variant.shuffled else 0) for fold in folds]
        for bags in zip(*orders, strict=True):
            optimizer.zero_grad()
            model.loss(side_by_side(bags)).backward()
            optimizer.step()
        schedule.step()
        scores = {
            name: torch.stack([model.positive(side_by_side(bags)) for bags in part]) for name, part in parts.items()
        }
        for index, epochs in enumerate(by_fold):
            epochs.append({name: score_BM[:, index].tolist() for name, score_BM in scores.items()})
    return by_fold


def order_of(fold: Fold, epoch: int) -> list[tuple[BagId, Tensor, int]]:
    """The training bags in that epoch's order, as a fit draws it."""
    bags = {bag[0]: bag for bag in fold.train}
    labelled = tuple(sorted(LabelledBag(bag_id, ClassTarget(label)) for bag_id, _, label in fold.train))
    batches = global_batches(labelled, fold.seed, epoch, 1, balanced=False)
    return [bags[turn.bag.bag_id] for batch in batches for turn in batch]


def accuracy(labels: Sequence[int], positive: Sequence[float], threshold: float = 0.5) -> float:
    return statistics.fmean((value >= threshold) == bool(label) for label, value in zip(labels, positive, strict=True))


def at_best_threshold(labels: Sequence[int], positive: Sequence[float]) -> float:
    """At the threshold of the largest sensitivity less false positive rate, on these very bags."""
    num_positive = sum(labels)

    def gain(threshold: float) -> float:
        hits = [label for label, value in zip(labels, positive, strict=True) if value >= threshold]
        return sum(hits) / num_positive - (len(hits) - sum(hits)) / (len(labels) - num_positive)

    return accuracy(labels, positive, max(sorted({*positive, 2.0}, reverse=True), key=gain))


def by_rule(fold: Fold, epochs: Sequence[dict[str, list[float]]]) -> dict[str, float]:
    """The accuracy of one fold by each rule."""
    labels, held_out = [label for *_, label in fold.test], [label for *_, label in fold.validation]
    half = [accuracy(labels, scores["test"]) for scores in epochs]
    free = [at_best_threshold(labels, scores["test"]) for scores in epochs]
    validated = [accuracy(held_out, scores["validation"]) for scores in epochs]
    chosen = half[validated.index(max(validated))]
    return dict(zip(RULES, (half[-1], chosen, free[-1], max(half), max(free)), strict=True))


def read_fold(bags: ClassicSet, split: Split, seed: int, standardised: bool) -> Fold:
    labels = {BagId(row.slide_id): int(str(row.label)) for row in bags.rows()}
    train, validation, test = ([BagId(name) for name in part] for part in (split.train, split.validation, split.test))
    source = bags.open(train) if standardised else ClassicBags(bags.path)

    def read(part: Sequence[BagId]) -> list[tuple[BagId, Tensor, int]]:
        return [(bag_id, source.read(bag_id).float(), labels[bag_id]) for bag_id in part]

    return Fold(seed, read(train), read(validation), read(test))


def run(bags: ClassicSet, variant: Variant, seeds: int) -> dict[str, list[float]]:
    """By rule the mean over folds, for each seed."""
    splits = [(seed, split) for seed in range(seeds) for split in make_splits(bags.rows(), TASK, SPLIT, seed)]
    folds = [read_fold(bags, split, seed, variant.standardised) for seed, split in splits]
    scores = [by_rule(*pair) for pair in zip(folds, fit(folds, variant), strict=True)]
    return {
        rule: [
            statistics.fmean(score[rule] for fold, score in zip(folds, scores, strict=True) if fold.seed == seed)
            for seed in range(seeds)
        ]
        for rule in RULES
    }


def cell(values: Sequence[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.3f} ± {spread:.3f}".replace("0.", ".")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", default="Fox,Elephant")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--variants", help="separated by semicolons; all by default")
    parser.add_argument("--out", type=Path, help="add a line of JSON for each row there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = options.variants.split(";") if options.variants else list(VARIANTS)
    print("| set, variant | " + " | ".join(RULES) + " | CPU s |\n|" + "---|" * (len(RULES) + 2))
    for name in names:
        for set_name in options.sets.split(","):
            start_s = time.process_time()
            accuracies = run(ClassicSet(options.data / f"{set_name}.npz"), VARIANTS[name], options.seeds)
            seconds = time.process_time() - start_s
            print(
                f"| {set_name}, {name} | " + " | ".join(map(cell, accuracies.values())) + f" | {seconds:.0f} |",
                flush=True,
            )
            if options.out:
                record = {"set": set_name, "variant": name, "seconds": seconds} | accuracies
                with options.out.open("a") as file:
                    file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
