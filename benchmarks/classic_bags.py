"""Classic multiple-instance sets: plain aggregators against MHIM, beside what the literature reports.

    python benchmarks/classic_bags.py --data FOLDER [--seeds 3] [--jobs 2] [--out DIR] [--tune]

FOLDER holds Musk1.npz, Tiger.npz, Fox.npz and Elephant.npz (X, bag, label per instance). Ten stratified folds, drawn
anew by each seed, a tenth of the other bags for validation; features standardised by each fold's training bags. Musk1
with every aggregator (TransMIL with one seed), the others with ABMIL and DSMIL. No option was chosen on a test fold:
learning rate and epochs are those of `--tune`, which prints validation AUROC and loss of plain ABMIL on Musk1.

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
from mhim_core.cohort.options import SplitOptions, SplitScheme
from mhim_core.cohort.table import CohortRow
from mhim_core.mil.options import MhimOptions, ModelOptions
from mhim_core.store.interop import ClassicBags
from mhim_core.train.options import FitOptions, Selection
from mhim_core.train.plan import Stage
from mhim_core.types import BagId, PatientId, SlideId

MODEL = ModelOptions(embed_dim=64)
MHIM = MhimOptions(random_mask_ratio=0.2)
"""Bags of about five instances: at .9 nothing would be kept, and such bags pass whole. Chosen beforehand."""
FIT = FitOptions(epochs=40, learning_rate=5e-4, weight_decay=5e-3, selection=Selection.last)
"""The last epoch, since eight validation bags are too few to choose one."""
SPLIT = SplitOptions(scheme=SplitScheme.folds, folds=10, val_fraction=0.1)
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


def recipe(aggregator: str, fit: FitOptions = FIT, *, gated: bool = False) -> Recipe:
    return Recipe(dataclasses.replace(MODEL, aggregator=aggregator, gated=gated), MHIM, fit, SPLIT)


def tune(data: Path, jobs: int, out: Path) -> None:
    """Validation numbers of plain ABMIL over learning rates and epochs, one seed that is not reported."""
    for learning_rate in (2e-4, 5e-4, 1e-3):
        for epochs in (20, 40):
            fit = dataclasses.replace(FIT, learning_rate=learning_rate, epochs=epochs)
            plain = recipe("abmil", fit)._replace(stage=Stage.plain)
            place = out / f"tune-{learning_rate}-{epochs}"
            records = run_folds(ClassicSet(data / "Musk1.npz"), plain, [100], jobs, place)[100]
            known = [fold.validation["plain"] for fold in records]
            loss = [fold.validation_loss["plain"] for fold in records]
            value = statistics.fmean(value for value in known if value is not None)
            print(f"learning rate {learning_rate}, {epochs} epochs: validation AUROC {value:.3f}, ", end="")
            print(f"loss {statistics.fmean(loss):.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--out", type=Path, help="keep and reuse finished folds there")
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
        for name, aggregator in cases:
            seeds = range(1 if aggregator == "transmil" else options.seeds)
            # an epoch of TransMIL costs ten of ABMIL
            fit = dataclasses.replace(FIT, epochs=FIT.epochs // 2) if aggregator == "transmil" else FIT
            bags = ClassicSet(options.data / f"{name}.npz")
            records = run_folds(bags, recipe(aggregator, fit), seeds, options.jobs, out)
            print_lines(f"{name} {aggregator}", records, PUBLISHED.get((name, aggregator), ""))


if __name__ == "__main__":
    main()
