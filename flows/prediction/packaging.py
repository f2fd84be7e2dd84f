"""From a finished run to a model that stands on its own: weights, what validation chose, and the card."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from flows.runs.evaluation import read_metrics
from flows.runs.fits import FoldFits, load_fold, model_names, reported_stage, results_of, trained_on
from flows.runs.folder import Run, package_versions
from mhim_core.cohort.tasks import bags_in
from mhim_core.errors import InputError
from mhim_core.evaluation.calibration import Temperature, Threshold, choose
from mhim_core.fingerprint import to_plain
from mhim_core.registry.card import Member, RegistryCard
from mhim_core.storage import Storage
from mhim_core.task import ClassTarget
from mhim_core.train.card import INTENDED_USE
from mhim_core.train.plan import Stage
from mhim_core.train.prediction import PredictOptions, PredictWith
from mhim_core.train.results import FitResult, read_model

if TYPE_CHECKING:  # torch: a command that finds everything done must not load it
    from mhim_core.store.bags import PatientBags

_RECIPE = ("method", "model", "mhim", "fit", "splits", "target", "seeds")


class PackagedModel(NamedTuple):
    """What `registry.models.register_model` takes."""

    card: RegistryCard
    files: dict[str, bytes]


def package_run(
    run: Run,
    *,
    fits: Sequence[FoldFits] | None = None,
    created_by: str = "mhim model register",
    estimate: Mapping[str, Any] | None = None,
    holdout: Mapping[str, Any] | None = None,
) -> PackagedModel:
    """The run's reported models as one model: the mean of `fits` (None: of every seed and fold).

    Each member's temperature and threshold are chosen here, on its own validation bags (one pass over them).
    `estimate`, `holdout`: figures for the card, plain JSON; without an estimate the run's own evaluation counts, where
    there is one. Raises InputError where a fit is not finished, IntegrityError where a file is damaged.
    """
    chosen = results_of(run) if fits is None else list(fits)
    if not chosen:
        raise InputError(f"{run.storage.uri}: a model needs at least one fit of the run")
    card = run_card(run, chosen, created_by=created_by, estimate=estimate, holdout=holdout)
    results = member_results(run, chosen)
    return PackagedModel(card, {file: read_model(run.storage, result) for file, result in results.items()})


def run_card(
    run: Run,
    fits: Sequence[FoldFits],
    *,
    created_by: str = "",
    estimate: Mapping[str, Any] | None = None,
    holdout: Mapping[str, Any] | None = None,
) -> RegistryCard:
    """The card that these fits have as one model. Cost: one pass over their validation bags."""
    source = run.bag_source()
    return RegistryCard(
        task=run.task,
        unit=str(run.identity["target"]["bags"]),
        members=tuple(_member(run, fold_fits, source) for fold_fits in fits),
        encoder=run.record["encoder"],
        encoder_identity=run.feature_set.encoder_identity,
        tiling=run.record["tiling"],
        recipe={key: run.identity[key] for key in _RECIPE if key in run.identity} | _prediction(run),
        trained_on=trained_on(run, {fold_fits.fold for fold_fits in fits}),
        estimate=dict(estimate_of(run.storage, model_names(run)[0]) if estimate is None else estimate),
        holdout=dict(holdout or {}),
        versions=package_versions(),
        created_by=created_by,
        intended_use=INTENDED_USE,
        started_from=run.record.get("started_from", ""),
    )


def member_results(run: Run, fits: Sequence[FoldFits]) -> dict[str, FitResult]:
    """The fits that the members' weights are of, by file below the model folder, in order; of a pair two a member."""
    results = {}
    for fold_fits in fits:
        results[_file(fold_fits)] = fold_fits.results[reported_stage(run)]
        if run.predict_with is PredictWith.pair:
            results[_file(fold_fits, "-plain")] = fold_fits.results[Stage.plain]
    return results


def _file(fits: FoldFits, part: str = "") -> str:
    return f"members/seed-{fits.seed}-fold-{fits.fold}{part}.safetensors"


def _prediction(run: Run) -> dict[str, Any]:
    """The section of the recipe; a card leaves it out where the student predicts, as one of 0.1 does."""
    is_neutral = run.method != Stage.mhim or run.predict_with is PredictWith.student
    return {} if is_neutral else {"prediction": to_plain(PredictOptions(predict_with=run.predict_with))}


def _member(run: Run, fits: FoldFits, source: "PatientBags") -> Member:
    from mhim_core.train.inference import predict_tables

    stage, is_pair = reported_stage(run), run.predict_with is PredictWith.pair
    result = fits.results[stage]
    voter = load_fold(run, fits).voters[model_names(run)[0]]
    temperature, threshold = Temperature(None), Threshold(None)
    if run.classes:
        split = next(split for split in run.splits if split.fold == fits.fold)
        bags = bags_in(run.bags, split.validation)
        logits = [predict_tables(source.read_tables(bag.bag_id), [voter]).logits_MC[0].tolist() for bag in bags]
        truth = [bag.target.class_index for bag in bags if isinstance(bag.target, ClassTarget)]
        temperature, threshold = choose(truth, logits)
    return Member(
        file=_file(fits),
        sha256=result.model_sha256,
        seed=fits.seed,
        fold=fits.fold,
        stage=stage,
        append_recycled=voter.append_recycled,
        temperature=temperature.value,
        threshold=threshold.value,
        reason=temperature.reason or threshold.reason,
        best_epoch=result.best_epoch,
        validation=_validation(result),
        predict_with=run.predict_with if stage is Stage.mhim else PredictWith.student,
        plain_file=_file(fits, "-plain") if is_pair else "",
        plain_sha256=fits.results[Stage.plain].model_sha256 if is_pair else "",
    )


def _validation(result: FitResult) -> dict[str, Any]:
    return {"metric": result.metric_name, "value": result.metric, "loss": result.validation_loss}


def estimate_of(storage: Storage, model_name: str) -> dict[str, Any]:
    """A model's pooled figures on the test bags of the run in this folder; empty if it is not evaluated."""
    metrics = read_metrics(storage)
    model = None if metrics is None else metrics["models"].get(model_name)
    if metrics is None or model is None:
        return {}
    kept = {key: metrics[key] for key in ("num_bags", "num_patients", "seeds", "folds")}
    return kept | {"pooled": model["pooled"]}
