"""A run's fold models, loaded and verified, and the data they were trained on."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from flows.runs.folder import Run, known_before
from mhim_core.errors import InputError
from mhim_core.registry.card import TrainedOn
from mhim_core.train.plan import Stage, fit_name
from mhim_core.train.prediction import PredictWith
from mhim_core.train.results import FitResult, read_model, read_result

if TYPE_CHECKING:  # torch: a command that finds everything done must not load it
    from mhim_core.train.inference import Voter


class FoldFits(NamedTuple):
    """The finished fits of one fold and seed."""

    seed: int
    fold: int
    results: dict[str, FitResult]
    """By stage."""


class FoldModels(NamedTuple):
    """One fold and seed: the reported model first, then those beside it for comparison."""

    fits: FoldFits
    voters: "dict[str, Voter]"


def model_names(run: Run) -> tuple[str, ...]:
    """The models of each fold, the reported one first (`Run.predict_with`); the pair only where it is that."""
    if run.method != Stage.mhim:
        return (PredictWith.plain.model_name,)
    others = (PredictWith.student, PredictWith.teacher, PredictWith.plain)
    return tuple(dict.fromkeys(choice.model_name for choice in (run.predict_with, *others)))


def reported_stage(run: Run) -> Stage:
    """The stage whose fit the reported model is of; of a pair, the student's."""
    return Stage.plain if run.method != Stage.mhim or run.predict_with is PredictWith.plain else Stage.mhim


def results_of(run: Run) -> list[FoldFits]:
    """The finished fits of every seed and fold. Raises InputError naming the first that is missing."""
    stages = (Stage.mhim, Stage.plain) if run.method == Stage.mhim else (Stage.plain,)
    folds = []
    for seed in run.seeds:
        for split in run.splits:
            fits = {}
            for stage in stages:
                name = fit_name(seed, split.fold, stage)
                result = read_result(run.storage, name)
                if result is None:
                    raise InputError(
                        f"{run.storage.uri}: the fit {name} is not finished; run mhim train with the same keys to go on"
                    )
                fits[str(stage)] = result
            folds.append(FoldFits(seed, split.fold, fits))
    return folds


def load_fold(run: Run, fits: FoldFits) -> FoldModels:
    """Raises IntegrityError if a model file is not the one that its result names, InputError if a plug-in's file is not
    given."""
    from mhim_core.train.inference import Voter
    from mhim_core.train.model_file import load_model

    voters = {}
    for stage, result in fits.results.items():
        loaded = load_model(read_model(run.storage, result))
        voters[stage] = Voter(loaded.student, loaded.card.append_recycled, loaded.card.task)
        if loaded.teacher is not None:
            # it never sees recycled tokens
            voters[f"{stage} teacher"] = Voter(loaded.teacher, False, loaded.card.task)
    if Stage.mhim in voters:
        voters[PredictWith.pair.model_name] = voters[Stage.mhim]._replace(beside=voters[Stage.plain])
    return FoldModels(fits, voters)


def model_digests(fits: Sequence[FoldFits]) -> list[str]:
    """sha256 of every model file, in order; they identify what an evaluation is of."""
    return [result.model_sha256 for fold_fits in fits for result in fold_fits.results.values()]


def trained_on(run: Run, folds: set[int]) -> TrainedOn:
    """Patients and slides that the models of these folds were trained on or chosen by, also before a warm start."""
    entries, rows = run.manifest.entries, {row.slide_id: row for row in run.slides}
    used = [slide_id for split in run.splits if split.fold in folds for slide_id in (*split.train, *split.validation)]
    return TrainedOn.of(
        cohort=run.identity["cohort"],
        feature_set=run.identity["feature_set"],
        manifest_version=run.record["manifest"]["version"],
        manifest_sha256=run.record["manifest"]["sha256"],
        patients=[rows[slide_id].patient_id for slide_id in used],
        sources=[entries[slide_id].reading.source for slide_id in used],
        before=known_before(run),
    )
