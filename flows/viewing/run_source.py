"""A training run in the viewer: its held-out predictions, and every fold's models."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from flows.runs.evaluation import PREDICTIONS_KEY, attention_key, bag_unit, read_held_out, read_metrics
from flows.runs.fits import model_names
from flows.runs.folder import Run
from flows.viewing.cohort_rows import CohortPlaces, rows_beside
from flows.viewing.source import (
    MinedSlide,
    MiningChoice,
    ModelChoice,
    Recent,
    Source,
    kept_models,
    read_kept_attention,
)
from mhim_core.cohort.splits import Split
from mhim_core.cohort.tasks import bags_in
from mhim_core.errors import InputError
from mhim_core.records import read_record
from mhim_core.train.fit_options import FitOptions
from mhim_core.train.plan import LabelledBag, Stage, fit_name
from mhim_core.train.prediction import PredictWith
from mhim_core.train.results import FitResult, read_model, read_result
from mhim_core.train.sampler import global_batches, num_batches
from mhim_core.types import BagId, SlideId
from mhim_core.view.outcomes import held_out_outcomes, target_words
from mhim_core.view.worklist import BagOutcome, Worklist, WorklistRow

if TYPE_CHECKING:
    from mhim_core.train.inference import Voter
    from mhim_core.train.model_file import LoadedModel
    from mhim_core.view.mined import MinedBag, Turn

_TITLES = {"student": "student", "teacher": "teacher", "plain": "stage-1 model"}
_STAGES = {"student": Stage.mhim, "teacher": Stage.mhim, "plain": Stage.plain}


class RunModels:
    """The finished fits of a run, loaded when they are asked for."""

    def __init__(self, run: Run) -> None:
        self.run = run
        stages = (Stage.mhim, Stage.plain) if run.method == Stage.mhim else (Stage.plain,)
        names = [fit_name(seed, split.fold, stage) for seed in run.seeds for split in run.splits for stage in stages]
        results = {name: read_result(run.storage, name) for name in names}
        self.results: dict[str, FitResult] = {name: result for name, result in results.items() if result is not None}
        self.missing = [name for name in names if name not in self.results]
        self._loaded: Recent[str, LoadedModel] = Recent(self._load, kept_models())

    def choices(self, relation_to: Mapping[int, str]) -> list[ModelChoice]:
        """Every model; first those that do not know the slide, of the roles in the order of the run's report."""
        first = {"mhim": "student", "mhim teacher": "teacher", "plain": "plain"}.get(
            model_names(self.run)[0], "student"
        )
        roles = [first, *(role for role in _TITLES if role != first)]
        found = []
        for seed in self.run.seeds:
            for split in self.run.splits:
                for role in roles:
                    if fit_name(seed, split.fold, _STAGES[role]) not in self.results:
                        continue
                    title = f"fold {split.fold} · {_TITLES[role]}"
                    if len(self.run.seeds) > 1:
                        title += f" · seed {seed}"
                    relation = relation_to.get(split.fold, "new")
                    found.append(ModelChoice(f"{role}-{seed}-{split.fold}", title, split.fold, seed, role, relation))
        order = {"held_out": 0, "new": 0, "validation": 1, "train": 2}
        return sorted(found, key=lambda choice: (order[choice.relation], roles.index(choice.role)))

    def voter(self, key: str) -> "Voter":
        """Raises InputError where there is none of that key."""
        from mhim_core.train.inference import Voter

        role, _, place = key.partition("-")
        seed, _, fold = place.rpartition("-")
        if role not in _STAGES or not fold.isdecimal():
            raise InputError(f"there is no model {key}")
        loaded = self.loaded(f"seed-{seed}/fold-{fold}/{_STAGES[role]}")
        if role == "teacher":
            if loaded.teacher is None:
                raise InputError(f"there is no model {key}")
            return Voter(loaded.teacher, False, loaded.card.task)  # it never sees recycled tokens
        return Voter(loaded.student, loaded.card.append_recycled, loaded.card.task)

    def loaded(self, name: str) -> "LoadedModel":
        """The model file of a fit. Raises InputError where there is none."""
        if name not in self.results:
            raise InputError(f"there is no finished fit {name}")
        return self._loaded.get(name)

    def _load(self, name: str) -> "LoadedModel":
        from mhim_core.train.model_file import load_model

        return load_model(read_model(self.run.storage, self.results[name]))


class RunSource(Source):
    """A training run."""

    kind = "run"

    def __init__(self, run: Run, cohort: CohortPlaces | None) -> None:
        super().__init__(run.feature_store, run.manifest.entries, run.record["tiling"])
        self.run, self._cohort = run, cohort
        self.title = f"{run.record['cohort_name']} · {run.storage.uri.rstrip('/').rpartition('/')[2]}"
        self.task, self.unit, self.storage = run.task, bag_unit(run).value, run.storage
        self.models = RunModels(run)
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
        from mhim_core.view.mined import mine_bag

        name = fit_name(seed, fold, Stage.mhim)
        loaded = self.models.loaded(name)
        result = self.models.results[name]
        if not 1 <= epoch <= len(result.history):
            raise InputError(f"fold {fold} was trained for {len(result.history)} epochs; there is no epoch {epoch}")
        assert loaded.card.mhim is not None
        in_bag = self.in_bag(slide_id)
        bag = self._members.get(SlideId(slide_id))
        turn, notes = self._turn(BagId(slide_id if bag is None else bag.bag_id), seed, fold, epoch)
        if not teacher:  # that of both which is nearer to the epoch
            teacher = "stage1" if abs(epoch - 1) <= abs(epoch - result.best_epoch) else "chosen"
        kept = {"stage1": self.models.loaded(fit_name(seed, fold, Stage.plain)).student, "chosen": loaded.teacher}
        model, other = kept.get(teacher), kept["chosen" if teacher == "stage1" else "stage1"]
        if model is None or other is None:
            raise InputError(f"teacher={teacher} is neither stage1 nor chosen")
        mined, also = (mine_bag(each, in_bag.features_NF, loaded.card.mhim, turn) for each in (model, other))
        notes += [_TEACHERS[teacher].format(epoch=epoch, best_epoch=result.best_epoch), _agreement(mined, also)]
        return MinedSlide(mined, in_bag.rows, tuple(notes))

    def _turn(self, bag_id: BagId, seed: int, fold: int, epoch: int) -> "tuple[Turn, list[str]]":
        from mhim_core.view.mined import Turn

        split = next(split for split in self.run.splits if split.fold == fold)
        train = tuple(sorted(LabelledBag(bag.bag_id, bag.target) for bag in bags_in(self.run.bags, split.train)))
        fit = read_record(FitOptions, self.run.identity["fit"], self.run.storage.locate("run.json"))
        steps = num_batches(len(train), fit.global_batch)
        batches = global_batches(train, seed, epoch - 1, fit.global_batch, fit.balanced_sampling)
        turns = [(index, turn) for index, batch in enumerate(batches) for turn in batch if turn.bag.bag_id == bag_id]
        notes = []
        if bag_id not in {bag.bag_id for bag in train}:
            notes.append(f"Fold {fold} was not trained on this {self.unit}: these masks are what they would have been.")
        elif not turns:
            notes.append("Balanced sampling gave it no turn in this epoch: these masks are what they would have been.")
        elif len(turns) > 1:
            notes.append(f"It had {len(turns)} turns in this epoch; this is the first.")
        step, draw_id = (turns[0][0], turns[0][1].draw_id) if turns else (0, bag_id)
        total = fit.epochs * steps
        return Turn(seed, epoch - 1, draw_id, (epoch - 1) * steps + step, total, fit.max_instances), notes


_TEACHERS = {
    "stage1": "Scores are of the stage-1 model, as which the teacher began: exact at the first step of training, and "
    "the further on, the less so (this is epoch {epoch}).",
    "chosen": "Scores are of the teacher after epoch {best_epoch}, which is kept beside the chosen student; in epoch "
    "{epoch} the teacher was another.",
}


def _agreement(mined: "MinedBag", other: "MinedBag") -> str:
    """How much hangs on which of the kept teachers scores, in a sentence."""
    from mhim_core.view.mined import TileFate

    masked, by_other = mined.fate_N == TileFate.high, other.fate_N == TileFate.high
    num = int(masked.sum())
    if not num:
        return "No tile was masked for its score."
    return (
        f"Of the {num} tiles masked for their scores, the other kept teacher masks {int((masked & by_other).sum())} as "
        "well; what is drawn at random differs with these alone."
    )


def _parts(splits: Iterable[Split]) -> dict[str, dict[int, str]]:
    """By slide and fold: held_out, validation or train."""
    parts: dict[str, dict[int, str]] = {}
    for split in splits:
        for name, ids in (("train", split.train), ("validation", split.validation), ("held_out", split.test)):
            for slide_id in ids:
                parts.setdefault(str(slide_id), {})[split.fold] = name
    return parts
