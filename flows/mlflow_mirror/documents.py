"""What MLflow shows of a run, of a registered model and of a retraining: plain data, made of what lies in the store.

No path of a slide, no id of a patient and no label is in parameters, metrics or tags; pages and figures are the files
that lie in the store. A part that was shown before is known by its digest and not sent again.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from flows.runs.evaluation import read_metrics
from flows.runs.fits import model_names, results_of
from flows.runs.folder import Run
from flows.runs.pages import PICTURES
from mhim_core.errors import InputError, NotFoundError
from mhim_core.fingerprint import canonical_json, fingerprint, sha256, to_plain
from mhim_core.records import parse_object
from mhim_core.registry.card import RegistryCard
from mhim_core.registry.models import list_models, read_model_folder
from mhim_core.registry.names import CHAMPION, model_prefix
from mhim_core.registry.promotions import Promotion, history
from mhim_core.report.data import ReportFigure
from mhim_core.report.pictures import EXTENSIONS
from mhim_core.storage import Storage
from mhim_core.train.results import FitResult

CHALLENGER = "challenger"
_UNFIT = re.compile(r"[^A-Za-z0-9_./ -]")
_MAX_VALUE = 500
"""Characters of a parameter that every MLflow takes."""
_PAGES = ("report.html", "MODEL_CARD.md")
_FLOW_FOLDER = r"(?P<folder>flows/(?P<flow>pipeline|retrain)/(?P<name>[^/]+)/(?P<digits>[^/]+))"
_JUDGED = re.compile(_FLOW_FOLDER + r"/done/judge-.*\.json")
_EPOCHS = ("task_loss", "consistency_loss", "validation_loss", "validation_metric", "learning_rate")


class Point(NamedTuple):
    """A metric's value at an epoch; 0 for what has none."""

    name: str
    value: float
    step: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """Parameters, metrics and files that become known together; they are sent together, and only once."""

    name: str
    params: Mapping[str, str] = dataclasses.field(default_factory=dict)
    metrics: tuple[Point, ...] = ()
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)

    @property
    def digest(self) -> str:
        """A fingerprint of the content, by which a part that was sent is recognised."""
        files = {path: sha256(data) for path, data in self.files.items()}
        return fingerprint({"params": self.params, "metrics": self.metrics, "files": files})


@dataclasses.dataclass(frozen=True, kw_only=True)
class MirroredRun:
    """One run of MLflow."""

    key: str
    """Identifies what it shows, so that mirroring it again, from any machine, gives no second run."""
    name: str
    parent: str = ""
    """The key of the run that it belongs to; empty: none."""
    tags: Mapping[str, str] = dataclasses.field(default_factory=dict)
    parts: tuple[Part, ...] = ()


class MirroredVersion(NamedTuple):
    """One version of a registered model of MLflow, and the run that shows it."""

    version: str
    run: str
    """Its run's key."""
    description: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class MirroredModel:
    """One registered model of MLflow."""

    name: str
    versions: tuple[MirroredVersion, ...]
    """The oldest first."""
    aliases: Mapping[str, str]
    """The version of each; one that is not here is taken away."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mirror:
    """What is sent at once: runs, each after its parent, then models."""

    runs: tuple[MirroredRun, ...]
    models: tuple[MirroredModel, ...] = ()


def mirror_of_run(trained_run: Run, figures: Iterable[ReportFigure] = ()) -> Mirror:
    """A training run with a child for each finished fit; with evaluation and page as far as they are there."""
    key = str(trained_run.record["fingerprint"])
    aggregator = str(trained_run.identity["model"]["aggregator"])
    parts = [
        Part(name="training", params=_run_params(trained_run)),
        Part(name="evaluation", metrics=tuple(_evaluation(trained_run))),
        Part(name="page", files=_pages(trained_run.storage)),
        Part(name="figures", files={f"figures/{_file(figure)}": figure.image for figure in figures}),
    ]
    run = MirroredRun(
        key=key,
        name=f"{trained_run.method} {aggregator} {key[:8]}",
        tags={"mhim.kind": "train", "mhim.place": trained_run.storage.uri},
        parts=tuple(part for part in parts if part.params or part.metrics or part.files),
    )
    return Mirror(runs=(run, *(_fit_run(fit, key) for fit in _finished(trained_run))))


def mirror_of_registry(registry: Storage, name: str) -> Mirror:
    """Every version of a name, every judgement, and the present champion and challenger."""
    records = history(registry, name)
    registered = list_models(registry, name)
    place = fingerprint(registry.uri)[:12]  # two registries may have models of one name
    versions, runs = [], []
    for entry in registered:
        key = f"model/{place}/{name}/{entry.version}"
        runs.append(_version_run(key, name, read_model_folder(registry, name, entry.version).card))
        where = registry.locate(model_prefix(name, entry.version))
        versions.append(MirroredVersion(entry.version, key, f"Mirrored; the model itself is {where}"))
    runs += _judgements(registry, name, place, records)
    runs += [_promotion_run(record, place) for record in records]
    aliases = {CHAMPION: records[-1].version} if records else {}
    newest = registered[-1] if registered else None
    if newest is not None and newest.version not in {record.version for record in records}:
        aliases[CHALLENGER] = newest.version
    models = (MirroredModel(name=name, versions=tuple(versions), aliases=aliases),) if versions else ()
    return Mirror(runs=tuple(runs), models=models)


def _run_params(run: Run) -> dict[str, str]:
    """What identifies the run, but for labels and digests of data that are tags elsewhere."""
    identity = {key: value for key, value in run.identity.items() if key not in ("cohort", "task", "teachers")}
    encoder = run.record["encoder"]
    values = identity | {
        "task": run.task.kind,
        "num_classes": len(run.classes),
        "num_folds": len(run.splits),
        "num_slides": len(run.slides),
        "encoder": {key: encoder[key] for key in ("id", "weights_sha256", "precision") if key in encoder},
        "tiling": {key: run.record["tiling"][key] for key in ("target_mpp", "tile_px", "overlap_px")},
        "manifest": run.record["manifest"],
        "versions": run.record["versions"],
    }
    return dict(_params(values))


def _params(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """`fit.epochs` → `20`, of every leaf."""
    for key, item in sorted(value.items()):
        if isinstance(item, Mapping):
            yield from _params(item, f"{prefix}{key}.")
        else:
            text = item if isinstance(item, str) else canonical_json(item).decode()
            yield _plain(f"{prefix}{key}"), text[:_MAX_VALUE]


def _finished(run: Run) -> Iterator[FitResult]:
    """Of every seed and fold; none where one is missing still."""
    try:
        fits = results_of(run)
    except InputError:
        return
    for fold_fits in fits:
        yield from fold_fits.results.values()


def _fit_run(fit: FitResult, parent: str) -> MirroredRun:
    points = [
        Point(name, value, record.epoch)
        for record in fit.history
        for name in _EPOCHS
        if (value := getattr(record, name)) is not None and math.isfinite(value)
    ]
    points.append(Point("best_epoch", fit.best_epoch))
    params = {"stage": str(fit.stage), "fold": str(fit.fold), "seed": str(fit.seed), "selected_by": fit.metric_name}
    params |= {"model_sha256": fit.model_sha256, "stopped_early": str(fit.stopped_early).lower()}
    return MirroredRun(
        key=f"{parent}/{fit.name}",
        name=fit.name,
        parent=parent,
        tags={"mhim.kind": "fit"},
        parts=(Part(name="training", params=params, metrics=tuple(points)),),
    )


def _evaluation(run: Run) -> Iterator[Point]:
    """Pooled over folds, of the reported model without a prefix and of the others with their names."""
    metrics = read_metrics(run.storage)
    if metrics is None:
        return
    # the evaluation may be by another model of the run since, which the run does not report
    reported, *_ = model_names(run)
    for name, model in metrics["models"].items():
        prefix = "" if name == reported else f"{name}/"
        yield from _estimates(model["pooled"], prefix)


def _estimates(estimates: Mapping[str, Any], prefix: str = "") -> Iterator[Point]:
    """`auroc`, `auroc_low`, `auroc_high` of {metric: estimate}; what is undefined has none."""
    for name, estimate in sorted(estimates.items()):
        if not isinstance(estimate, Mapping):
            continue
        for suffix, field in (("", "value"), ("_low", "low"), ("_high", "high")):
            if estimate.get(field) is not None:
                yield Point(_plain(f"{prefix}{name}{suffix}"), float(estimate[field]))


def _pages(storage: Storage) -> dict[str, bytes]:
    """What people read of a run, a page with the pictures beside it."""
    names = [*_PAGES, *(entry.key for entry in storage.list(PICTURES) if entry.key.rpartition(".")[2] in EXTENSIONS)]
    return {name: data for name in names if (data := _maybe(storage, name)) is not None}


def _version_run(key: str, name: str, card: RegistryCard) -> MirroredRun:
    facts = card.trained_on
    params = dict(_params({key: value for key, value in card.recipe.items() if key != "task"}))
    params |= {
        "encoder": str(card.encoder["id"]),
        "num_members": str(len(card.members)),
        "num_slides": str(facts.num_slides),
        "num_patients": str(facts.num_patients),
        "training_data": facts.cohort,
        "manifest_sha256": facts.manifest_sha256,
    }
    points = [*_estimates(card.estimate.get("pooled", {}), "estimate/")]
    if card.threshold is not None:
        points.append(Point("threshold", card.threshold))
    files = {"model/card.json": _public_card(name, card)}
    return MirroredRun(
        key=key,
        name=f"{name} {card.version}",
        tags={"mhim.kind": "model", "mhim.version": card.version, "mhim.intended_use": card.intended_use},
        parts=(Part(name="card", params=params, metrics=tuple(points), files=files),),
    )


def _public_card(name: str, card: RegistryCard) -> bytes:
    """Without the digests of slides and patients: a short id could be guessed from them."""
    facts = to_plain(card.trained_on) | {"salt": card.trained_on.salt}  # always there, so that no old document changes
    facts = {key: value for key, value in facts.items() if key not in ("patients", "sources")}
    return canonical_json(to_plain(card) | {"trained_on": facts, "name": name, "version": card.version})


def _judgements(registry: Storage, name: str, place: str, records: tuple[Promotion, ...]) -> Iterator[MirroredRun]:
    """Every pipeline and retraining that judged a challenger."""
    promoting_flows = {record.by_fingerprint for record in records}
    for entry in registry.list("flows"):
        match = _JUDGED.fullmatch(entry.key)
        if match is None or match["name"] != name:
            continue
        folder = match["folder"]
        digest = parse_object(registry.get(entry.key), entry.key)["output"]["identity"].get("assessment")
        if digest is None:  # nothing was judged
            continue
        key = f"{folder}/assessment-{digest[:16]}.json"
        assessment = parse_object(registry.get(key), key)
        page = _maybe(registry, f"{folder}/report.html")
        is_promoted = any(flow.startswith(match["digits"]) for flow in promoting_flows)
        outcome = "promoted" if is_promoted else "passed" if assessment["decision"]["promote"] else "kept"
        yield MirroredRun(
            key=f"judgement/{place}/{folder}",
            name=f"{match['flow']} {name} {match['digits'][:8]}",
            tags={
                "mhim.kind": match["flow"],
                "mhim.champion": str(assessment["champion"]["version"]),
                "mhim.challenger": str(assessment["challenger"]),
                "mhim.outcome": outcome,
            },
            parts=tuple(_judgement_parts(assessment["decision"], page)),
        )


def _judgement_parts(decision: Mapping[str, Any], page: bytes | None) -> Iterator[Part]:
    figures = decision["figures"]
    points = [point for role in (CHAMPION, CHALLENGER) for point in _estimates(figures.get(role, {}), f"{role}/")]
    points += _estimates({"gain": figures["gain"]}) if "gain" in figures else []
    yield Part(name="figures", metrics=tuple(points), params=dict(_verdicts(decision["checks"])))
    if page is not None:
        yield Part(name="page", files={"report.html": page})


def _verdicts(checks: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Each check's verdict; of several sites' the worst. Reasons may name slides and stay where they are."""
    words = {True: "passed", None: "not made", False: "failed"}
    ranks = [True, None, False]
    worst: dict[str, int] = {}
    for check in checks:
        name, separator, _ = str(check["name"]).partition("/")
        name = f"check.{name}{'.sites' if separator else ''}"
        worst[name] = max(worst.get(name, 0), ranks.index(check["passed"]))
    yield from ((_plain(name), words[ranks[rank]]) for name, rank in sorted(worst.items()))


def _promotion_run(record: Promotion, place: str) -> MirroredRun:
    figures = record.figures.get(CHALLENGER, {})
    return MirroredRun(
        key=f"promotion/{place}/{record.name}/{record.number}",
        name=f"promotion {record.name} {record.number}",
        tags={"mhim.kind": "promotion", "mhim.version": record.version, "mhim.by": record.by_flow},
        parts=(
            Part(
                name="record",
                params={"kind": str(record.kind), "number": str(record.number), "base": str(record.base)},
                metrics=tuple(_estimates(figures)),
            ),
        ),
    )


def _file(figure: ReportFigure) -> str:
    kind = "png" if figure.image.startswith(b"\x89PNG") else "jpg"
    return f"{_UNFIT.sub('_', figure.title).replace('/', '_').replace(' ', '-').lower()}.{kind}"


def _plain(name: str) -> str:
    """A name that MLflow takes."""
    return _UNFIT.sub("_", name)[:250]


def _maybe(storage: Storage, key: str) -> bytes | None:
    try:
        return storage.get(key)
    except NotFoundError:
        return None
