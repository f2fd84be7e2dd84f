"""What a run's attention explains: measured on every held-out bag, kept in the run's `evaluation/`."""

from collections.abc import Iterator
from typing import Any

from flows.runs.evaluation import FOLDER, attention_folds
from flows.runs.fits import load_fold, model_digests, model_names, results_of
from flows.runs.folder import Run
from mhim_core.cohort.tasks import bags_in
from mhim_core.errors import NotFoundError
from mhim_core.evaluation.explanation import SCHEMA, ExplainedBag, agreement, faithfulness, summarise_explanation
from mhim_core.fingerprint import canonical_json, fingerprint
from mhim_core.records import parse_object
from mhim_core.tables import write_csv, write_parquet

SUMMARY = f"{FOLDER}/explanation.json"
TABLES = (f"{FOLDER}/explanation.csv", f"{FOLDER}/explanation.parquet")


def read_explanation(run: Run) -> dict[str, Any] | None:
    """What an earlier call measured of these very models, and of the one that is reported now; None: nothing."""
    try:
        document = parse_object(run.storage.get(SUMMARY), run.storage.locate(SUMMARY))
    except NotFoundError:
        return None
    return document if document.get("schema") == SCHEMA and document.get("of") == _digest(run) else None


def ensure_explained(run: Run, replicates: int) -> dict[str, Any]:
    """The document of `summarise_explanation` with the digest `of` the models; computed unless it is there.

    Every held-out bag is predicted some eighty times by the model that held it out, and once by every other.
    """
    present = read_explanation(run)
    if present is not None and present["replicates"] == replicates:
        return present
    bags = list(_explained(run))
    models = sum(1 for _ in results_of(run))
    document = summarise_explanation(bags, replicates=replicates)
    document |= {"of": _digest(run), "model": model_names(run)[0], "num_models_compared": models}
    lines = [bag.line() for bag in bags]
    for key, write in zip(TABLES, (write_csv, write_parquet), strict=True):
        run.storage.put(key, write(lines))
    run.storage.put(SUMMARY, canonical_json(document))  # last: it says that the rest is there
    return document


def _digest(run: Run) -> str:
    return fingerprint({"models": model_digests(results_of(run)), "reported": model_names(run)[0]})


def _explained(run: Run) -> Iterator[ExplainedBag]:
    """By the reported model of the first seed and of the first fold that holds the bag out."""
    import numpy as np

    from mhim_core.train.asking import AskedBag

    fits, name, keeper, source = results_of(run), model_names(run)[0], attention_folds(run), run.bag_source()
    voters = {(each.seed, each.fold): load_fold(run, each).voters[name] for each in fits}
    for split in run.splits:
        for bag in bags_in(run.bags, split.test):
            if any(keeper[slide_id] != split.fold for slide_id in bag.slide_ids):
                continue
            tables = source.read_tables(bag.bag_id)
            asked = {key: AskedBag(tables, [voter]) for key, voter in voters.items()}
            own = asked[run.seeds[0], split.fold]
            attention = np.stack([each.prediction.attention[0] for each in asked.values()])
            yield ExplainedBag(
                str(bag.bag_id),
                str(bag.patient_id),
                split.fold,
                len(own),
                faithfulness(own.prediction.attention[0], own.score, str(bag.bag_id)),
                agreement(attention),
            )
