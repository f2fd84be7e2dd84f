"""Classic multiple-instance sets: plain aggregators against MHIM, beside what the literature reports.

    python benchmarks/classic_bags.py --data FOLDER [--seeds 3] [--jobs 2] [--out DIR] [--tune]
        [--sets Musk1,UCSB,Elephant] [--aggregators abmil] [--full-view-weight 0.5]

FOLDER holds Musk1.npz, Tiger.npz, Fox.npz and Elephant.npz (X, bag, label per instance). Ten stratified folds, drawn
anew by each seed; features standardised by each fold's training bags. Musk1 with every aggregator (TransMIL with one
seed), the others with ABMIL and DSMIL; with --sets these sets alone, with ABMIL or --aggregators. No option was chosen
on a test fold: learning rate, epochs and dropout are those of `--tune`, which prints validation AUROC and loss of plain
ABMIL on Musk1, over folds of seeds that are not reported.

Accuracy at probability .5. Published values: Ilse et al. 2018 (ABMIL, ± standard error of five 10-fold runs), Li et al.
2021 (DSMIL).
"""

import argparse
import dataclasses
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cross_validation import Recipe, run_folds
from cross_validation_tables import HEADER, print_lines

from mhim_core.bags import BagSource
from mhim_core.cohort.table import CohortRow
from mhim_core.cohort.task_options import SplitOptions, SplitScheme
from mhim_core.mil.model_options import Activation, MhimOptions, ModelOptions
from mhim_core.store.interop import ClassicBags
from mhim_core.train.fit_options import FitOptions, Selection
from mhim_core.train.plan import Stage
from mhim_core.types import BagId, PatientId, SlideId

MODEL = ModelOptions(embed_dim=64, dropout=0.5)
MHIM = MhimOptions(random_mask_ratio=0.2)
"""Bags of about five instances: at .9 nothing would be kept, and such bags pass whole. Chosen beforehand."""
FIT = FitOptions(epochs=40, learning_rate=5e-4, weight_decay=5e-3, selection=Selection.last)
"""The last epoch, since a handful of validation bags cannot choose one."""
SPLIT = SplitOptions(scheme=SplitScheme.folds, folds=10, val_fraction=0.05)
TUNING_SPLIT = dataclasses.replace(SPLIT, val_fraction=0.1)
PUBLISHED = {
    ("Musk1", "abmil"): ".892 ± .040, gated .900 ± .050",
    ("Musk1", "dsmil"): ".932 ± .023",
    ("Tiger", "abmil"): ".839 ± .022, gated .845 ± .018",
    ("Tiger", "dsmil"): ".869 ± .008",
    ("Fox", "abmil"): ".615 ± .043, gated .603 ± .029",
    ("Fox", "dsmil"): ".729 ± .018",
    ("Elephant", "abmil"): ".868 ± .022, gated .857 ± .027",
    ("Elephant", "dsmil"): ".925 ± .007",
}


class ClassicSet(NamedTuple):
    """One .npz file; every bag counts as a patient of its own."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.stem

    def rows(self) -> Sequence[CohortRow]:
        return [
            CohortRow(SlideId(bag_id), str(self.path), PatientId(bag_id), str(label))
            for bag_id, label in ClassicBags(self.path).labels().items()
        ]

    def open(self, train: Sequence[BagId]) -> BagSource:
        raw = ClassicBags(self.path)
        return raw.standardised(raw.measure(train))


def recipe(aggregator: str, mhim: MhimOptions, fit: FitOptions) -> Recipe:
    return Recipe(dataclasses.replace(MODEL, aggregator=aggregator), mhim, fit, SPLIT)


TUNED = {
    "learning rate 2e-4": (MODEL, dataclasses.replace(FIT, learning_rate=2e-4)),
    "learning rate 5e-4 (chosen)": (MODEL, FIT),
    "learning rate 1e-3": (MODEL, dataclasses.replace(FIT, learning_rate=1e-3)),
    "20 epochs": (MODEL, dataclasses.replace(FIT, epochs=20)),
    "80 epochs": (MODEL, dataclasses.replace(FIT, epochs=80)),
    "dropout .25": (dataclasses.replace(MODEL, dropout=0.25), FIT),
    "embed_dim 256": (dataclasses.replace(MODEL, embed_dim=256), FIT),
    "tanh in the attention": (dataclasses.replace(MODEL, attention_activation=Activation.tanh), FIT),
}
"""One change at a time from what was chosen."""


def tune(data: Path, jobs: int, out: Path) -> None:
    """Validation numbers of plain ABMIL on Musk1; seeds that are not reported."""
    for name, (model, fit) in TUNED.items():
        plain = Recipe(model, MHIM, fit, TUNING_SPLIT, Stage.plain)
        by_seed = run_folds(ClassicSet(data / "Musk1.npz"), plain, [100, 101, 102], jobs, out / "tune" / name)
        folds = [fold for records in by_seed.values() for fold in records]
        values = [value for fold in folds if (value := fold.validation["plain"]) is not None]
        losses = [fold.validation_loss["plain"] for fold in folds]
        error = statistics.stdev(losses) / len(losses) ** 0.5
        print(f"{name:28} AUROC {statistics.fmean(values):.3f}, loss {statistics.fmean(losses):.3f} ± {error:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--out", type=Path, help="keep and reuse finished folds there")
    parser.add_argument("--sets", help="these sets alone, separated by commas, with --aggregators")
    parser.add_argument("--aggregators", default="abmil", help="of --sets, separated by commas")
    parser.add_argument("--full-view-weight", type=float, default=MHIM.full_view_weight, help="of the student")
    parser.add_argument("--tune", action="store_true", help="print validation numbers of plain ABMIL on Musk1 instead")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        out = options.out or Path(temporary)
        if options.tune:
            tune(options.data, options.jobs, out)
            return
        print(HEADER)
        cases = [("Musk1", name) for name in ("abmil", "dsmil", "clam-sb", "mean", "max", "transmil")]
        cases += [(name, aggregator) for name in ("Tiger", "Fox", "Elephant") for aggregator in ("abmil", "dsmil")]
        if options.sets:
            cases = [(name, other) for name in options.sets.split(",") for other in options.aggregators.split(",")]
        mhim = dataclasses.replace(MHIM, full_view_weight=options.full_view_weight)
        for name, aggregator in cases:
            seeds = range(1 if aggregator == "transmil" else options.seeds)
            # an epoch of TransMIL costs ten of ABMIL, MDMIL four; the other sets have twice the bags of Musk1
            short = aggregator in ("transmil", "mdmil") or name != "Musk1"
            fit = dataclasses.replace(FIT, epochs=FIT.epochs // 2) if short else FIT
            bags = ClassicSet(options.data / f"{name}.npz")
            records = run_folds(bags, recipe(aggregator, mhim, fit), seeds, options.jobs, out)
            print_lines(f"{name} {aggregator}", records, PUBLISHED.get((name, aggregator), ""))


if __name__ == "__main__":
    main()
