"""A run's evaluation: every bag predicted by the models that held it out, kept in the run's `evaluation/`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from flows.runs.fits import FoldFits, load_fold, model_digests, model_names, results_of
from flows.runs.folder import Run
from mhim_core.cohort.task_options import BagUnit
from mhim_core.cohort.tasks import bags_in
from mhim_core.errors import InputError, NotFoundError
from mhim_core.evaluation.held_out import HeldOut
from mhim_core.evaluation.prediction_table import decode_held_out, encode_held_out, held_out_line, ordered
from mhim_core.evaluation.row_metrics import TrainTargets
from mhim_core.evaluation.summary import SCHEMA, summarise
from mhim_core.fingerprint import canonical_json, fingerprint
from mhim_core.records import parse_object
from mhim_core.storage import Storage
from mhim_core.tables import write_csv
from mhim_core.task import TaskKind
from mhim_core.train.plan import Stage

if TYPE_CHECKING:  # torch: a command that finds everything done must not load it
    from mhim_core.store.schema import FeatureTable
    from mhim_core.train.inference import BagPrediction, Voter

FOLDER = "evaluation"
METRICS_KEY = f"{FOLDER}/metrics.json"
PREDICTIONS_KEY, VALIDATION_KEY = f"{FOLDER}/predictions.parquet", f"{FOLDER}/validation.parquet"
PREDICTIONS_CSV = f"{FOLDER}/predictions.csv"
TABLES = (PREDICTIONS_KEY, PREDICTIONS_CSV, VALIDATION_KEY)
DEFAULT_REPLICATES = 2000


def ensure_evaluated(run: Run, replicates: int | None = None) -> dict[str, Any]:
    """The run's metrics, computed if they or a table beside them are missing, or if they are of other models, of
    another version, report another model than `Run.predict_with` or, if given, are of other replicates. Raises
    InputError if the run has no test part."""
    return evaluated(run, replicates).metrics


def read_metrics(storage: Storage) -> dict[str, Any] | None:
    """The evaluation of the run in this folder, or None if there is none that this version can read."""
    try:
        metrics = parse_object(storage.get(METRICS_KEY), storage.locate(METRICS_KEY))
    except NotFoundError:
        return None
    return metrics if metrics.get("schema") == SCHEMA else None


def train_targets(run: Run) -> TrainTargets:
    """The targets of each fold's training bags, from which Uno's C estimates the censoring."""
    return {split.fold: [bag.target for bag in bags_in(run.bags, split.train)] for split in run.splits}


def read_held_out(run: Run, key: str = PREDICTIONS_KEY) -> list[HeldOut]:
    """The held-out rows of an evaluated run (VALIDATION_KEY: those of its validation). Raises InputError if it is not
    evaluated."""
    try:
        data = run.storage.get(key)
    except NotFoundError:
        raise InputError(f"{run.storage.uri} is not evaluated yet; run mhim evaluate run={run.storage.uri}") from None
    return decode_held_out(data, run.task, bag_unit(run), run.storage.locate(key))


def bag_unit(run: Run) -> BagUnit:
    """What a bag of the run is."""
    return BagUnit(run.identity["target"]["bags"])


def attention_key(slide_id: str) -> str:
    """Of the reported model of the first seed and fold that held the slide out."""
    return f"{FOLDER}/attention/{slide_id}.parquet"


def attention_folds(run: Run) -> dict[str, int]:
    """By held-out slide, the fold whose attention is kept: the first that holds the slide out."""
    held_out = {split.fold: bags_in(run.bags, split.test) for split in reversed(run.splits)}
    return {slide_id: fold for fold, bags in held_out.items() for bag in bags for slide_id in bag.slide_ids}


class Evaluated(NamedTuple):
    """A run's evaluation."""

    metrics: dict[str, Any]
    """The document of `metrics.json`."""
    recomputed: bool
    """False: it was there already, of the same models."""


def evaluated(run: Run, replicates: int | None) -> Evaluated:
    """As `ensure_evaluated`, and whether anything was computed."""
    if not any(split.test for split in run.splits):
        raise InputError(
            f"{run.storage.uri} holds no slide out (scheme=final trains on every patient), so there is nothing to "
            "evaluate; mhim predict judges its models on new slides"
        )
    fits = results_of(run)
    digest, models, unit = fingerprint(model_digests(fits)), model_names(run), bag_unit(run)
    present = read_metrics(run.storage)
    is_same = present is not None and (present["of"], present["reported"]) == (digest, models[0])
    if present is not None and is_same and replicates in (None, present["replicates"]):
        stored = {entry.key for entry in run.storage.list(FOLDER)}
        if stored.issuperset([*TABLES, *map(attention_key, attention_folds(run))]):
            return Evaluated(present, False)
    if not is_same:
        # what is written over it piece by piece is another model's: cut short, it must not pass for what was there
        run.storage.delete(METRICS_KEY)
    test_rows: list[HeldOut] = []
    validation_rows: list[HeldOut] = []
    for fold_fits in fits:
        _predict_fold(run, fold_fits, test_rows, validation_rows)
    metrics = summarise(
        test_rows,
        validation_rows,
        run.task,
        train_targets=train_targets(run),
        replicates=DEFAULT_REPLICATES if replicates is None else replicates,
    )
    metrics |= {"of": digest, "reported": models[0]}
    table = ordered(test_rows, models)
    run.storage.put(PREDICTIONS_KEY, encode_held_out(table, run.task, unit))
    run.storage.put(PREDICTIONS_CSV, write_csv([held_out_line(row, run.task, unit) for row in table]))
    run.storage.put(VALIDATION_KEY, encode_held_out(ordered(validation_rows, models), run.task, unit))
    run.storage.put(METRICS_KEY, canonical_json(metrics))  # last: it says that the rest is there
    return Evaluated(metrics, True)


def _predict_fold(run: Run, fits: FoldFits, test_rows: list[HeldOut], validation_rows: list[HeldOut]) -> None:
    split = next(split for split in run.splits if split.fold == fits.fold)
    source, keeper = run.bag_source(), attention_folds(run)
    voters, names = load_fold(run, fits).voters, model_names(run)
    for part, rows in ((split.test, test_rows), (split.validation, validation_rows)):
        for bag in bags_in(run.bags, part):
            tables = source.read_tables(bag.bag_id)
            predictions = _by_model(tables, voters, run.task.kind)
            for name in names:
                logits = tuple(predictions[name].logits_MC[0].tolist())
                rows.append(
                    HeldOut(name, fits.seed, fits.fold, bag.bag_id, bag.patient_id, bag.site, bag.target, logits)
                )
            if part is split.test and fits.seed == run.seeds[0]:
                for table, attention in zip(tables, slide_attention(tables, predictions[names[0]]), strict=True):
                    if keeper[table.slide_id] == fits.fold:
                        run.storage.put(attention_key(table.slide_id), attention)


def _by_model(
    tables: "Sequence[FeatureTable]", voters: "Mapping[str, Voter]", kind: TaskKind
) -> "dict[str, BagPrediction]":
    """One bag by every model; the pair's prediction is made of its two models', which are not asked again."""
    from mhim_core.train.inference import join_pair, predict_tables

    alone = {name: voter for name, voter in voters.items() if voter.beside is None}
    predictions = {str(name): predict_tables(tables, [voter]) for name, voter in alone.items()}
    for name in voters.keys() - alone.keys():
        predictions[name] = join_pair(predictions[Stage.mhim], predictions[Stage.plain], kind)
    return predictions


def slide_attention(tables: "Sequence[FeatureTable]", prediction: "BagPrediction") -> Iterator[bytes]:
    """The attention of each of the bag's slides as a file; of a pair with that of both models."""
    from mhim_core.store.attention import encode_attention

    for index, table in enumerate(tables):
        parts = {name: attention[index] for name, attention in prediction.attention_of.items()}
        yield encode_attention(table, prediction.attention[index], parts)
