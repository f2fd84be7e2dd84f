"""A training run in the viewer: its held-out predictions, and every fold's models."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from flows.runs.evaluation import PREDICTIONS_KEY, attention_key, bag_unit, read_held_out, read_metrics
from flows.runs.folder import Run
from flows.viewing.cohort_rows import CohortPlaces, rows_beside
from flows.viewing.run_mining import RunMining
from flows.viewing.run_models import RunModels
from flows.viewing.source import MinedSlide, MiningChoice, ModelChoice, Source, read_kept_attention
from mhim_core.cohort.splits import Split
from mhim_core.evaluation.held_out import FitId
from mhim_core.train.plan import Stage, fit_name
from mhim_core.train.prediction import PredictWith
from mhim_core.types import BagId, SlideId
from mhim_core.view.outcomes import held_out_outcomes, target_words
from mhim_core.view.worklist import BagOutcome, Worklist, WorklistRow

if TYPE_CHECKING:
    from mhim_core.train.inference import Voter


class RunSource(Source):
    """A training run."""

    kind = "run"

    def __init__(self, run: Run, cohort: CohortPlaces | None) -> None:
        super().__init__(run.feature_store, run.manifest.entries, run.record["tiling"])
        self.run, self._cohort = run, cohort
        self.title = f"{run.record['cohort_name']} · {run.storage.uri.rstrip('/').rpartition('/')[2]}"
        self.task, self.unit, self.storage = run.task, bag_unit(run).value, run.storage
        self.models = RunModels(run)
        self._mining = RunMining(self.models)
        self._slides = {str(slide.slide_id): slide for slide in run.slides}
        self._members = {slide_id: bag for bag in run.bags for slide_id in bag.slide_ids}
        self._parts = _parts(run.splits)
        outcomes = self._outcomes()
        rows = [self._row(slide_id, outcomes) for slide_id in self._slides]
        rows += rows_beside(cohort, self._slides, run.feature_store, run.identity["feature_set"], self.entries)
        self.worklist = Worklist(rows, run.task.kind)

    def _outcomes(self) -> dict[str, BagOutcome]:
        self._reported = ""
        notes = []
        if self.models.missing:
            notes.append(f"{len(self.models.missing)} fits of this run are not finished.")
        num_left_out = self.run.record["excluded"]["not embedded"] + self.run.record["excluded"]["without tissue"]
        if num_left_out and self._cohort is None:
            notes.append(f"{num_left_out} slides of the table were not embedded or have no tissue; cohort= lists them.")
        metrics = read_metrics(self.run.storage)
        outcomes: dict[str, BagOutcome] = {}
        if metrics is None:
            notes.append(f"The run is not evaluated; mhim evaluate run={self.run.storage.uri} adds predictions.")
        else:
            # which model is reported is the evaluation's to say: what is kept beside it is of that one
            rows = [row for row in read_held_out(self.run, PREDICTIONS_KEY) if row.model == metrics["reported"]]
            outcomes = held_out_outcomes(rows, self.run.task)
            self._reported = metrics["reported"]
            notes.append(
                f"Predictions are held out: each slide by models that did not see its patient ({metrics['reported']})."
            )
        self.notes = notes
        return outcomes

    def _row(self, slide_id: str, outcomes: Mapping[str, BagOutcome]) -> WorklistRow:
        slide, bag = self._slides[slide_id], self._members.get(SlideId(slide_id))
        outcome = outcomes.get(bag.bag_id) if bag is not None else None
        entry = self.entries.get(SlideId(slide_id))
        return WorklistRow(
            slide_id=slide_id,
            patient_id=slide.patient_id,
            site=slide.site,
            label=target_words(bag.target, self.run.classes) if bag is not None else slide.label,
            num_tiles=entry.num_tiles if entry is not None else None,
            **({} if outcome is None else vars(outcome)),
        )

    def uri_of(self, slide_id: str) -> str:
        if self._cohort is not None and slide_id in self._cohort.uris:
            return self._cohort.uris[slide_id]
        slide = self._slides.get(slide_id)
        return "" if slide is None else self.run.slide_uri(slide)

    def members_of(self, slide_id: str) -> tuple[str, ...]:
        bag = self._members.get(SlideId(slide_id))
        return (slide_id,) if bag is None else tuple(map(str, bag.slide_ids))

    def models_of(self, slide_id: str) -> list[ModelChoice]:
        parts = self._parts.get(slide_id, {})
        choices = self.models.choices(parts)
        if self._reported != PredictWith.pair.model_name or "held_out" not in parts.values():
            return choices
        # what was kept is the mean of student and stage-1 model, which no single model shows
        fold = min(fold for fold, part in parts.items() if part == "held_out")
        title = f"fold {fold} · student and stage-1 model"
        return [ModelChoice("kept", title, fold, self.run.seeds[0], "kept", "held_out"), *choices]

    def voter(self, key: str) -> "Voter":
        return self.models.voter(key)

    def kept_attention(self, slide_id: str) -> Mapping[str, np.ndarray]:
        return read_kept_attention(self.run.storage, attention_key(slide_id))

    def mining_of(self, slide_id: str) -> list[MiningChoice]:
        parts = self._parts.get(slide_id, {})
        found = []
        for seed in self.run.seeds:
            for split in self.run.splits:
                result = self.models.results.get(fit_name(seed, split.fold, Stage.mhim))
                if result is not None:
                    relation = parts.get(split.fold, "new")
                    found.append(MiningChoice(seed, split.fold, len(result.history), result.best_epoch, relation))
        return sorted(found, key=lambda choice: choice.relation != "train")

    def mined(self, slide_id: str, seed: int, fold: int, epoch: int, teacher: str) -> MinedSlide:
        bag = self._members.get(SlideId(slide_id))
        bag_id = BagId(slide_id if bag is None else bag.bag_id)
        return self._mining.mined(bag_id, self.in_bag(slide_id), FitId(seed, fold), epoch, teacher)


def _parts(splits: Iterable[Split]) -> dict[str, dict[int, str]]:
    """By slide and fold: held_out, validation or train."""
    parts: dict[str, dict[int, str]] = {}
    for split in splits:
        for name, ids in (("train", split.train), ("validation", split.validation), ("held_out", split.test)):
            for slide_id in ids:
                parts.setdefault(str(slide_id), {})[split.fold] = name
    return parts
