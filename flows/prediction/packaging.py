"""From a finished run to a model that stands on its own: weights, what validation chose, and the card."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from flows.runs.evaluation import read_metrics
from flows.runs.fits import FoldFits, load_fold, model_names, results_of, trained_on
from flows.runs.folder import Run, package_versions
from mhim_core.cohort.tasks import bags_in
from mhim_core.errors import InputError
from mhim_core.evaluation.calibration import Temperature, Threshold, choose
from mhim_core.registry.card import Member, RegistryCard
from mhim_core.storage import Storage
from mhim_core.task import ClassTarget
from mhim_core.train.card import INTENDED_USE
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
    stage = model_names(run)[0]
    files = {member_file(fold_fits): read_model(run.storage, fold_fits.results[stage]) for fold_fits in chosen}
    return PackagedModel(card, files)


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
        recipe={key: run.identity[key] for key in _RECIPE if key in run.identity},
        trained_on=trained_on(run, {fold_fits.fold for fold_fits in fits}),
        estimate=dict(estimate_of(run.storage) if estimate is None else estimate),
        holdout=dict(holdout or {}),
        versions=package_versions(),
        created_by=created_by,
        intended_use=INTENDED_USE,
        started_from=run.record.get("started_from", ""),
    )


def member_file(fits: FoldFits) -> str:
    """The member's safetensors below the model folder."""
    return f"members/seed-{fits.seed}-fold-{fits.fold}.safetensors"


def _member(run: Run, fits: FoldFits, source: "PatientBags") -> Member:
    from mhim_core.train.inference import predict_tables

    stage = model_names(run)[0]
    result = fits.results[stage]
    voter = load_fold(run, fits).voters[stage]
    temperature, threshold = Temperature(None), Threshold(None)
    if run.classes:
        split = next(split for split in run.splits if split.fold == fits.fold)
        bags = bags_in(run.bags, split.validation)
        logits = [predict_tables(source.read_tables(bag.bag_id), [voter]).logits_MC[0].tolist() for bag in bags]
        truth = [bag.target.class_index for bag in bags if isinstance(bag.target, ClassTarget)]
        temperature, threshold = choose(truth, logits)
    return Member(
        file=member_file(fits),
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
    )


def _validation(result: FitResult) -> dict[str, Any]:
    return {"metric": result.metric_name, "value": result.metric, "loss": result.validation_loss}


def estimate_of(storage: Storage) -> dict[str, Any]:
    """The reported model's pooled figures on the test bags of the run in this folder; empty if it is not evaluated."""
    metrics = read_metrics(storage)
    if metrics is None:
        return {}
    model = metrics["models"][metrics["reported"]]
    kept = {key: metrics[key] for key in ("num_bags", "num_patients", "seeds", "folds")}
    return kept | {"pooled": model["pooled"]}
