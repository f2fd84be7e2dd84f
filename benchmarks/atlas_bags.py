r"""A small cohort of real slides: plain aggregators against MHIM by patient-level cross-validation.

    python benchmarks/atlas_bags.py --data FOLDER [--store STORE] [--seeds 3] [--jobs 2] [--out DIR]

FOLDER holds slides/atlas10x.csv (21 slides of 13 patients; label 1 = neoplastic) and bags/atlas10x/*.h5, the features
of at most 160 tiles a slide by MobileNetV2. With --store, the slides as embedded there by this project instead:

    mhim embed cohort=FOLDER/slides/atlas10x_mpp.csv store=STORE target_mpp=1.0 max_upsample=2.1 \
        encoder=efficientnet-lite0

Five stratified folds of patients, drawn anew by each seed, the last of few epochs. Thirteen patients support no claim
about the order of the models; the intervals say so.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cross_validation import Recipe, run_folds
from cross_validation_tables import HEADER, print_lines

from mhim_core.bags import BagSource
from mhim_core.cohort.table import CohortRow, read_cohort
from mhim_core.cohort.task_options import SplitOptions, SplitScheme, TableOptions
from mhim_core.mil.model_options import MhimOptions, ModelOptions
from mhim_core.storage import LocalStorage
from mhim_core.store.bags import ParquetBags
from mhim_core.store.feature_sets import choose_feature_set
from mhim_core.store.interop import H5Bags
from mhim_core.store.manifest import read_manifest
from mhim_core.train.fit_options import FitOptions, Selection
from mhim_core.types import BagId

FIT = FitOptions(epochs=30, selection=Selection.last)
"""About 20 training bags: the validation part, two or three patients, is too small to choose an epoch."""
SPLIT = SplitOptions(scheme=SplitScheme.folds, folds=5, val_fraction=0.2)


class AtlasSet(NamedTuple):
    """The slides whose features are there; from a folder of .h5 files, or from a store's newest manifest."""

    table: Path
    h5_folder: Path
    store: Path | None
    label_column: str = ""
    """Empty: found by its name."""

    @property
    def name(self) -> str:
        name = "atlas-h5" if self.store is None else "atlas-store"
        return f"{name}-{self.label_column}" if self.label_column else name

    def rows(self) -> Sequence[CohortRow]:
        options = TableOptions(label_column=self.label_column)
        base_uri = str(self.table.parent)
        cohort = read_cohort(self.table.read_bytes(), name=self.table.name, base_uri=base_uri, options=options)
        present = self.open(()).lengths()
        return [row for row in cohort.rows if BagId(row.slide_id) in present]

    def open(self, train: Sequence[BagId]) -> BagSource:
        """Raw features: nothing is taken from the training bags."""
        if self.store is None:
            return H5Bags(self.h5_folder)
        storage = LocalStorage(self.store)
        manifest = read_manifest(storage, choose_feature_set(storage).fingerprint)
        return ParquetBags(storage, manifest.bags(), cache_gib=1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--store", type=Path, help="features embedded by this project, instead of the .h5 files")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--out", type=Path, help="keep and reuse finished folds there")
    options = parser.parse_args()
    data: Path = options.data
    bags = AtlasSet(data / "slides/atlas10x.csv", data / "bags/atlas10x", options.store)
    rows, lengths = bags.rows(), bags.open(()).lengths()
    print(
        f"{len(rows)} slides of {len({row.patient_id for row in rows})} patients, "
        f"{sum(row.label == '1' for row in rows)} of label 1, {min(lengths.values())} to {max(lengths.values())} tiles"
    )
    print(HEADER)
    with tempfile.TemporaryDirectory() as temporary:
        for aggregator in ("abmil", "transmil", "dsmil"):
            recipe = Recipe(ModelOptions(aggregator=aggregator, embed_dim=128), MhimOptions(), FIT, SPLIT)
            records = run_folds(bags, recipe, range(options.seeds), options.jobs, options.out or Path(temporary))
            print_lines(f"{bags.name} {aggregator}", records)


if __name__ == "__main__":
    main()
