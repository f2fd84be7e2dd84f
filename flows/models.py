"""A run's fold models, loaded and verified."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from flows.run_folder import Run
from mhim_core.errors import InputError
from mhim_core.train.plan import Stage
from mhim_core.train.results import FitResult, read_model, read_result

if TYPE_CHECKING:  # torch: a command that finds everything done must not load it
    from mhim_core.train.inference import Voter


class FoldModels(NamedTuple):
    """One fold: the reported model first, then those beside it for comparison."""

    fold: int
    voters: "dict[str, Voter]"
    results: dict[str, FitResult]
    """By stage."""


def model_names(run: Run) -> tuple[str, ...]:
    """The models of each fold, the reported one first: the student is what a run with MHIM stands for."""
    return ("mhim", "mhim teacher", "plain") if run.method == Stage.mhim else ("plain",)


def results_of(run: Run) -> list[dict[str, FitResult]]:
    """Each fold's finished fits by stage. Raises InputError naming the first that is missing."""
    stages = (Stage.mhim, Stage.plain) if run.method == Stage.mhim else (Stage.plain,)
    found = []
    for split in run.splits:
        fits = {}
        for stage in stages:
            name = f"fold-{split.fold}/{stage}"
            result = read_result(run.storage, name)
            if result is None:
                raise InputError(
                    f"{run.storage.uri}: the fit {name} is not finished; run mhim train with the same keys to go on"
                )
            fits[str(stage)] = result
        found.append(fits)
    return found


def load_fold(run: Run, fold: int, results: dict[str, FitResult]) -> FoldModels:
    """Raises IntegrityError where a model file is not the one its result names."""
    from mhim_core.train.checkpoint import load_model
    from mhim_core.train.inference import Voter

    voters = {}
    for stage, result in results.items():
        loaded = load_model(read_model(run.storage, result))
        voters[stage] = Voter(loaded.student, loaded.card.append_recycled)
        if loaded.teacher is not None:
            voters[f"{stage} teacher"] = Voter(loaded.teacher, False)  # it never sees recycled tokens
    return FoldModels(fold, voters, results)


def model_digests(results: Sequence[dict[str, FitResult]]) -> list[str]:
    """sha256 of every model file, in order: what an evaluation is of."""
    return [fit.model_sha256 for fits in results for fit in fits.values()]
