"""What a run's students were shown: the masks of an epoch, by a teacher that was kept, or by training done again."""

import threading
from typing import TYPE_CHECKING, NamedTuple

from flows.runs.folder import Run
from flows.viewing.run_models import RunModels
from flows.viewing.source import MinedSlide, SlideInBag
from mhim_core.cohort.tasks import bags_in
from mhim_core.errors import InputError
from mhim_core.evaluation.held_out import FitId
from mhim_core.records import read_record
from mhim_core.task import ClassTarget
from mhim_core.train.fit_options import FitOptions
from mhim_core.train.plan import LabelledBag, Stage, fit_name
from mhim_core.types import BagId

if TYPE_CHECKING:
    from mhim_core.mil.model import MilModel
    from mhim_core.train.model_file import LoadedModel
    from mhim_core.train.results import FitResult
    from mhim_core.train.state import FitSetup
    from mhim_core.view.mined import MinedBag, Turn

REPLAYED = "replayed"
_TEACHERS = {
    "stage1": "Scores are of the stage-1 model, as which the teacher began: exact at the first step of training, and "
    "the further on, the less so (this is epoch {epoch}).",
    "chosen": "Scores are of the teacher after epoch {best_epoch}, which is kept beside the chosen student; in epoch "
    "{epoch} the teacher was another.",
}
_QUICK_TILES = 200_000
"""Up to which training is done again without being asked for: some seconds."""
_ONE_REPLAY = threading.Lock()
"""A replay sets the number of torch's threads, and takes all of them."""


class _Fit(NamedTuple):
    """A finished fit of the student."""

    of: FitId
    loaded: "LoadedModel"
    result: "FitResult"
    setup: "FitSetup"


class _Scorer(NamedTuple):
    """A teacher, and what a reader must know of it."""

    teacher: "MilModel"
    notes: list[str]


class RunMining:
    """The masks of a run's fits."""

    def __init__(self, models: RunModels) -> None:
        self._models = models

    @property
    def _run(self) -> Run:
        return self._models.run

    def mined(self, bag_id: BagId, in_bag: SlideInBag, of: FitId, epoch: int, teacher: str) -> MinedSlide:
        """The masks of an epoch, from 1 on. `teacher`: stage1, chosen, replayed, or empty: replayed where that is
        quick, else the nearer one of the two that were kept.

        Raises InputError where there is no such fit or epoch, or where a replay takes too long.
        """
        from mhim_core.view.bag_looks import layout_in_bag
        from mhim_core.view.mined import mine_bag

        fit = self._fit(of)
        num_epochs, best_epoch = len(fit.result.history), fit.result.best_epoch
        if not 1 <= epoch <= num_epochs:
            raise InputError(f"fold {of.fold} was trained for {num_epochs} epochs; there is no epoch {epoch}")
        turn, notes = self._turn(bag_id, fit, epoch)
        if not teacher and self._tiles(fit, turn) <= _QUICK_TILES and "warm_start" not in self._run.identity:
            teacher = REPLAYED
        if not teacher:
            teacher = "stage1" if abs(epoch - 1) <= abs(epoch - best_epoch) else "chosen"
        class_index = self._class_index(bag_id)
        if teacher == REPLAYED:
            scorer = self._replayed(fit, turn)
            layout = layout_in_bag(scorer.teacher, in_bag.features_NF, in_bag.places)
            mined = mine_bag(scorer.teacher, in_bag.features_NF, fit.setup.mhim, turn, class_index, layout)
            return MinedSlide(mined, in_bag.rows, (*notes, *scorer.notes))
        stage_one = self._models.loaded(fit_name(of.seed, of.fold, Stage.plain)).student
        kept = {"stage1": stage_one, "chosen": fit.loaded.teacher}
        model, other = kept.get(teacher), kept["chosen" if teacher == "stage1" else "stage1"]
        if model is None or other is None:
            raise InputError(f"teacher={teacher} is not one of stage1, chosen, {REPLAYED}")
        layout = layout_in_bag(model, in_bag.features_NF, in_bag.places)
        mined, also = (
            mine_bag(each, in_bag.features_NF, fit.setup.mhim, turn, class_index, layout) for each in (model, other)
        )
        notes += [_TEACHERS[teacher].format(epoch=epoch, best_epoch=best_epoch), _agreement(mined, also)]
        return MinedSlide(mined, in_bag.rows, tuple(notes))

    def _class_index(self, bag_id: BagId) -> int | None:
        target = next((bag.target for bag in self._run.bags if bag.bag_id == bag_id), None)
        return target.class_index if isinstance(target, ClassTarget) else None

    def _fit(self, of: FitId) -> _Fit:
        from mhim_core.train.state import FitSetup

        name = fit_name(of.seed, of.fold, Stage.mhim)
        loaded = self._models.loaded(name)
        card = loaded.card
        assert card.mhim is not None
        split = next(split for split in self._run.splits if split.fold == of.fold)
        train = tuple(sorted(LabelledBag(bag.bag_id, bag.target) for bag in bags_in(self._run.bags, split.train)))
        options = read_record(FitOptions, self._run.identity["fit"], self._run.storage.locate("run.json"))
        setup = FitSetup(
            stage=Stage.mhim,
            seed=of.seed,
            d_in=card.d_in,
            task=card.task,
            model=card.model,
            mhim=card.mhim,
            fit=options.resolved(self._run.task.kind),
            train=train,
        )
        return _Fit(of, loaded, self._models.results[name], setup)

    def _turn(self, bag_id: BagId, fit: _Fit, epoch: int) -> "tuple[Turn, list[str]]":
        from mhim_core.view.mined import Turn

        setup, unit = fit.setup, self._run.identity["target"]["bags"]
        batches = setup.batches(epoch - 1)
        turns = [(index, turn) for index, batch in enumerate(batches) for turn in batch if turn.bag.bag_id == bag_id]
        notes = []
        if bag_id not in {bag.bag_id for bag in setup.train}:
            notes.append(f"Fold {fit.of.fold} was not trained on this {unit}: so it would have been masked.")
        elif not turns:
            notes.append("Balanced sampling gave it no turn in this epoch: so it would have been masked.")
        elif len(turns) > 1:
            notes.append(f"It had {len(turns)} turns in this epoch; this is the first.")
        step, draw_id = (turns[0][0], turns[0][1].draw_id) if turns else (0, bag_id)
        step += (epoch - 1) * setup.steps_per_epoch
        return Turn(setup.seed, epoch - 1, draw_id, step, setup.total_steps, setup.fit.max_instances), notes

    def _tiles(self, fit: _Fit, turn: "Turn") -> int:
        """What training again up to the end of that epoch takes through the model."""
        from mhim_core.view.replay import tiles_to_replay

        lengths = self._run.bag_source().lengths()
        return tiles_to_replay(fit.setup, [lengths[bag.bag_id] for bag in fit.setup.train], turn.epoch + 1)

    def _replayed(self, fit: _Fit, turn: "Turn") -> _Scorer:
        """The teacher just before that step."""
        from mhim_core.view.replay import MOST_TILES, replay

        if "warm_start" in self._run.identity:
            raise InputError("the training of a run with a warm start is not done again here")
        num = self._tiles(fit, turn)
        if num > MOST_TILES:
            raise InputError(
                f"to do training again up to epoch {turn.epoch + 1} takes {num:,} tiles through the model, more than "
                f"{MOST_TILES:,}; the kept teachers are at hand"
            )
        stage_one = self._models.loaded(fit_name(fit.of.seed, fit.of.fold, Stage.plain))
        num_threads = int(self._run.record["config"].get("threads_per_worker", 2))
        with _ONE_REPLAY:
            found = replay(
                fit.setup, stage_one, self._run.bag_source(), fit.result.history, turn.step, num_threads=num_threads
            )
        compared = (
            f"of its {found.num_epochs} whole epochs {found.num_equal} have the very losses that were recorded"
            if found.num_epochs
            else "it is within the first epoch, so that there are no losses yet to compare with what was recorded"
        )
        is_exact = found.num_equal == found.num_epochs > 0
        ending = "" if is_exact else "; on another kind of machine than that of the training a few masks may differ"
        note = f"{'Exact: t' if is_exact else 'T'}raining was done again up to this step; {compared}{ending}."
        return _Scorer(found.teacher, [note])


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
