"""Tiles of two slides planted in bags of other slides: real features of an encoder, of known truth.

The slides are those of a store, with their table. A bag's background is 150 to 249 tiles of one slide without neoplasia
(label 0), of a patient who by a coin gives bags to train on or to test on. A positive bag holds 2 to 4 tiles of the
loud donor, 8 to 14 of the quiet one, or both: from the upper halves of these slides in training, from the lower halves
in testing (tiles are stored row by row), so that no tile is in both. Features are standardised by the background tiles
of the training pool and clipped to ±6. One seed redraws the bags.

Both donors are of label 1. They were chosen before any fit by how far single tiles lie from the background
(`distances`): the loud one is the farthest, the quiet one the nearest of those with at least 300 tiles.
"""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from planted_sets import BACKGROUND, CLIP, LOUD, QUIET, DrawnSet, draw_planted

from mhim_core.cohort.table import read_cohort
from mhim_core.storage import LocalStorage
from mhim_core.store.bags import ParquetBags
from mhim_core.store.feature_sets import choose_feature_set
from mhim_core.store.manifest import read_manifest
from mhim_core.types import BagId


class PlantedSlides(NamedTuple):
    """Tiles of two slides planted among those of others."""

    folder: Path
    """cohort.csv and store/, as `mhim embed` makes it."""
    loud: str = "pleomorphism__HE"
    quiet: str = "pilocytic-astrocytoma__HE"
    name: str = "planted-slides"

    def draw(self, seed: int) -> DrawnSet:
        """As many bags as of planted classes."""
        return draw_planted(_SlideTiles(self, _read_slides(self.folder)), seed)


class _Slides(NamedTuple):
    """All tiles of a store, standardised."""

    x_TF: np.ndarray
    """float32."""
    slide_T: np.ndarray
    """The number of each tile's slide."""
    ids: list[str]
    label: list[str]
    """By slide, as `slide_T` counts them."""
    in_training: list[bool]
    """Of its patient."""

    def rows(self, slide: int) -> np.ndarray:
        return np.flatnonzero(self.slide_T == slide)

    def hosts(self, in_training: bool) -> list[int]:
        """The slides of a pool that give background."""
        return [
            slide
            for slide, (label, training) in enumerate(zip(self.label, self.in_training, strict=True))
            if label == "0" and training == in_training
        ]


class _SlideTiles(NamedTuple):
    """The pools of a planting."""

    donors: PlantedSlides
    slides: _Slides

    @property
    def features(self) -> np.ndarray:
        return self.slides.x_TF

    @property
    def evidence(self) -> np.ndarray:
        kinds = np.full(len(self.features), BACKGROUND)
        for evidence in (LOUD, QUIET):
            kinds[self.slides.rows(self._donor(evidence))] = evidence
        return kinds

    def background(self, random: np.random.Generator, num: int, in_training: bool) -> np.ndarray:
        """Of one slide."""
        return random.choice(self.slides.rows(int(random.choice(self.slides.hosts(in_training)))), num)

    def planted(self, evidence: int, in_training: bool) -> np.ndarray:
        rows = self.slides.rows(self._donor(evidence))
        half = len(rows) // 2
        return rows[:half] if in_training else rows[half:]

    def _donor(self, evidence: int) -> int:
        return self.slides.ids.index(self.donors.loud if evidence == LOUD else self.donors.quiet)


@cache
def _read_slides(folder: Path) -> _Slides:
    storage = LocalStorage(folder / "store")
    manifest = read_manifest(storage, choose_feature_set(storage).fingerprint)
    bags = ParquetBags(storage, manifest.bags())
    table = folder / "cohort.csv"
    rows = {row.slide_id: row for row in read_cohort(table.read_bytes(), name=table.name, base_uri=str(folder)).rows}
    ids = [str(bag_id) for bag_id in bags.lengths() if bag_id in rows]
    features = [bags.read(BagId(slide_id)).numpy().astype(np.float64) for slide_id in ids]
    patients = sorted({str(row.patient_id) for row in rows.values()})
    coin = dict(zip(patients, np.random.default_rng(7).random(len(patients)) < 0.5, strict=True))
    slides = _Slides(
        x_TF=np.concatenate(features),
        slide_T=np.repeat(np.arange(len(ids)), [len(x) for x in features]),
        ids=ids,
        label=[str(rows[slide_id].label) for slide_id in ids],
        in_training=[bool(coin[str(rows[slide_id].patient_id)]) for slide_id in ids],
    )
    background = np.isin(slides.slide_T, slides.hosts(True))
    mean, deviation = slides.x_TF[background].mean(axis=0), slides.x_TF[background].std(axis=0)
    x = np.clip((slides.x_TF - mean) / np.where(deviation > 0, deviation, 1.0), -CLIP, CLIP)
    return slides._replace(x_TF=x.astype(np.float32))


def distances(folder: Path) -> dict[str, float]:
    """By slide of label 1 with at least 300 tiles: the length of the mean of its standardised tiles."""
    slides = _read_slides(folder)
    means = {
        slide_id: float(np.linalg.norm(slides.x_TF[slides.rows(number)].mean(axis=0)))
        for number, (slide_id, label) in enumerate(zip(slides.ids, slides.label, strict=True))
        if label == "1" and len(slides.rows(number)) >= 300
    }
    return dict(sorted(means.items(), key=lambda item: item[1]))
