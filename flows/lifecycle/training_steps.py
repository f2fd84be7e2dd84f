"""The steps that make a model, shared by `mhim pipeline` and `mhim retrain`: each calls a flow that a person could run.

embed → train (folds) → evaluate → report: the estimate. embed → final (every patient outside the holdout) → register:
the model. A run lies at `<work>/<step>-<fingerprint>`, so whatever asks for the same training finds it.
"""

import dataclasses
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from cluster.storage import open_storage
from flows.config.commands import EmbedConfig, EvaluateConfig, ReportConfig, TrainConfig
from flows.config.flat import flat, from_keys, keys_of
from flows.config.lifecycle import PipelineConfig, RetrainConfig
from flows.config.tracking import TrackingKeys
from flows.engine.records import Cost, FlowPlace, StepOutput
from flows.engine.result import FlowResult
from flows.engine.runner import Step, StepCall
from flows.lifecycle.discover import read_features
from flows.mlflow_mirror.send import with_file
from flows.runs.cohort import CohortInput
from flows.runs.embed_report import Embedded
from flows.runs.evaluation import read_metrics
from flows.runs.folder import Run, read_run
from flows.runs.identity import keys_identity
from mhim_core.cohort.rows import CohortRow
from mhim_core.cohort.task_options import SplitScheme
from mhim_core.embed.card import EncoderCard
from mhim_core.embed.registry import runtime_of
from mhim_core.fingerprint import canonical_json, fingerprint, sha256, stated, to_plain
from mhim_core.outcome import Outcome
from mhim_core.registry.gate_options import GateOptions
from mhim_core.registry.holdout import read_holdout, split_off
from mhim_core.slides.spec import TileSpec
from mhim_core.storage import Storage
from mhim_core.store.feature_sets import FeatureSet
from mhim_core.tables import write_parquet
from mhim_core.types import ExitCode, Status

_UNFIT = re.compile(r"[^A-Za-z0-9._-]")
_COLUMNS = ("slide_id", "path", "patient_id", "label", "time", "event", "mpp", "site", "sha256", "split", "fold")


class CalledFlows(NamedTuple):
    """The commands that the steps call. They are handed in: a package never imports a command."""

    embed: Callable[..., Embedded]
    """`flows.embed.embed_cohort`."""
    train: Callable[[TrainConfig], FlowResult]
    evaluate: Callable[[EvaluateConfig], FlowResult]
    report: Callable[[ReportConfig], FlowResult]


@dataclass(frozen=True, kw_only=True)
class ModelWork:
    """What the steps of one flow work on: data, features, keys of the training, places."""

    flows: CalledFlows
    config: PipelineConfig | RetrainConfig
    cohort_input: CohortInput
    encoder: EncoderCard
    spec: TileSpec
    feature_set: FeatureSet
    keys: dict[str, Any]
    """The keys of `mhim train` that identify the model, by name; places and execution aside."""
    scheme: SplitScheme
    """Of the folds of the estimate."""
    folds: int
    store: Storage
    """Where features lie."""
    work: Storage
    """Where runs lie."""
    place: FlowPlace
    """Where records lie; its name is the model's."""
    registry: Storage | None
    starts_from: str = dataclasses.field(default="", metadata={"neutral": ""})
    """The version whose weights the model itself starts from; empty: it starts anew."""

    @property
    def name(self) -> str:
        """The model's name in the registry."""
        return self.place.name

    def at(self, fingerprint: str) -> "ModelWork":
        """The same under the fingerprint of its flow, once that is known."""
        return dataclasses.replace(self, place=dataclasses.replace(self.place, fingerprint=fingerprint))

    @property
    def labelled(self) -> tuple[CohortRow, ...]:
        """The slides that have a target."""
        return tuple(row for row in self.cohort_input.cohort.rows if row.is_labelled)

    def identity(self) -> dict[str, Any]:
        """Of the training's keys, as the run's own: plain JSON."""
        config = self.train_config("-", "-", self.scheme)
        return keys_identity(config) | {"folds": self.folds} | self.start_identity()

    def start_identity(self) -> dict[str, str]:
        """What a warm start adds to the final training's."""
        return stated(ModelWork, {"starts_from": self.starts_from})

    @cached_property
    def tracking(self) -> TrackingKeys:
        """The mirror of the flows that are called, so that all of them write one."""
        return with_file(self.config.tracking, self.place.storage)

    def settings(self, gate: GateOptions) -> dict[str, Any]:
        """What a later retraining goes by where it is not told otherwise: plain JSON."""
        values = {"gate": gate, "policy": self.config.policy}
        plain: dict[str, Any] = json.loads(canonical_json(values))
        return plain

    def train_config(self, cohort: str, out: str, scheme: SplitScheme) -> TrainConfig:
        """Of the estimate, or with scheme=final of the model itself."""
        own = dict(self.keys)
        if scheme is SplitScheme.final:
            own |= {"teacher": "", "split_files": ()}  # they are of the estimate's folds
            if self.starts_from:
                assert self.registry is not None
                own |= {"warm_start": f"{self.name}@{self.starts_from}", "registry": self.registry.uri}
        else:
            own["folds"] = self.folds
        if self.registry is not None:
            own["partial_splits"] = True  # patients of the holdout are not in the table that is trained on
        for shared in (self.config.plugin, self.config.ray, self.config.execution, self.tracking, self.config.trust):
            own |= flat(shared)
        own |= {"cohort": cohort, "store": self.config.store, "out": out, "scheme": scheme}
        own["na_values"] = ()  # `train_table` has empty cells for no label, and whatever else is a label
        return from_keys(TrainConfig, **own | {"feature_set": self.feature_set.fingerprint})

    def train_table(self) -> str:
        """The table of the labelled slides that may be trained on, written for `mhim train`; where it lies."""
        rows: Sequence[CohortRow] = self.labelled
        if self.registry is not None:
            frozen = read_holdout(self.registry, self.name)
            assert frozen is not None, "the steps before froze it, or the flow read it"
            entries = read_features(self.store, self.feature_set.fingerprint).entries
            sources = {slide_id: record.reading.source for slide_id, record in entries.items()}
            rows = split_off(frozen, rows, sources).trainable
        data = _table(rows)
        key = f"cohorts/{sha256(data)[:16]}/{_stem(self.cohort_input.cohort.name)}.parquet"
        self.work.put_if_absent(key, data)
        return self.work.locate(key)


def rows_digest(rows: Sequence[CohortRow]) -> str:
    """Of what training takes from these rows; where their files lie is no part of it."""
    return fingerprint(sorted(row._replace(uri="", row=0, annotation="", mask="") for row in rows))


def embed_step(work: ModelWork, data: str) -> Step:
    """`mhim embed`, which finds for itself what is not committed yet. `data`: the data fingerprint."""

    def run(call: StepCall) -> StepOutput:
        config = _embed_config(work)
        embedded = work.flows.embed(work.cohort_input, work.encoder, work.spec, config, work.store)
        # of what may be trained on alone: a slide without a label starts no training anew
        usable = {row.slide_id for row in work.labelled}
        features = {slide_id: record.sha256 for slide_id, record in embedded.entries.items() if slide_id in usable}
        return StepOutput(
            identity={"feature_set": work.feature_set.fingerprint, "features": fingerprint(features)},
            places={"store": embedded.result.outputs["store"]},
            exit_code=embedded.result.exit_code,
            cost=_embed_cost(embedded.outcome),
            note=embedded.outcome.summary(),
        )

    inputs = {
        "feature_set": work.feature_set.fingerprint,
        "data": data,
        "rows": rows_digest(work.cohort_input.cohort.rows),
        "policy": to_plain(work.config.policy),
    }
    return Step("embed", inputs, run)


def train_step(work: ModelWork, after: tuple[str, ...]) -> Step:
    """`mhim train` over the folds: the estimate."""
    return _training(work, "train", work.scheme, after)


def final_step(work: ModelWork, after: tuple[str, ...]) -> Step:
    """`mhim train scheme=final`: the model, of every patient that is not in the holdout."""
    return _training(work, "final", SplitScheme.final, after)


def _training(work: ModelWork, name: str, scheme: SplitScheme, after: tuple[str, ...]) -> Step:
    def run(call: StepCall) -> StepOutput:
        start_s = time.monotonic()
        out = work.work.locate(f"{name}-{call.fingerprint[:16]}")
        config = work.train_config(work.train_table(), out, scheme)
        result = work.flows.train(config)
        trained_run = read_run(out)
        seconds = time.monotonic() - start_s if result.recomputed else 0.0
        return StepOutput(
            identity={"run": trained_run.record["fingerprint"]},
            places={name: trained_run.storage.uri},
            cost=_training_cost(trained_run, round(seconds * config.execution.num_workers().most, 3)),
            note=f"{len(trained_run.slides)} slides, {len(trained_run.splits)} folds, {len(trained_run.seeds)} seeds",
        )

    keys = keys_identity(work.train_config("-", "-", scheme))
    inputs: dict[str, Any] = {"keys": keys, "rows": rows_digest(work.labelled)}
    if scheme is SplitScheme.final:
        inputs |= work.start_identity()
    else:
        inputs["folds"] = work.folds
    return Step(name, inputs, run, after)


def evaluate_step(work: ModelWork) -> Step:
    """`mhim evaluate`: the estimate's figures."""

    def run(call: StepCall) -> StepOutput:
        uri = call.before["train"].places["train"]
        work.flows.evaluate(EvaluateConfig(run=uri, plugin=work.config.plugin, tracking=work.tracking))
        metrics = read_metrics(open_storage(uri))
        assert metrics is not None
        return StepOutput(
            identity={"metrics": fingerprint(metrics)},
            cost=Cost(num_slides=metrics["num_bags"]),
            note=f"{metrics['num_bags']} held-out bags of {metrics['num_patients']} patients",
        )

    return Step("evaluate", {}, run, ("train",))


def report_step(work: ModelWork) -> Step:
    """`mhim report`: the page of the estimate."""
    config = work.config

    def run(call: StepCall) -> StepOutput:
        result = work.flows.report(
            ReportConfig(
                run=call.before["train"].places["train"],
                page=config.page,
                plugin=config.plugin,
                tracking=work.tracking,
            )
        )
        return StepOutput(places=result.outputs)

    return Step("report", to_plain(config.page), run, ("evaluate",))


def _embed_config(work: ModelWork) -> EmbedConfig:
    """Some failed slides are no failure of the flow here, and no more are hidden: the runner settles the exit code."""
    own = {name: value for name, value in flat(work.config).items() if name in keys_of(EmbedConfig)}
    encoder = {"encoder": work.encoder.id, "encoder_runtime": runtime_of(work.encoder)}
    return from_keys(EmbedConfig, **own | flat(work.spec) | encoder | {"partial_ok": False})


def _embed_cost(outcome: Outcome) -> Cost:
    worked = [row for row in outcome.rows if row.status is not Status.SKIPPED]
    return Cost(
        num_slides=sum(row.status is not Status.FAILED for row in worked),
        num_tiles=sum(row.num_tiles for row in worked),
        num_bytes=sum(row.num_bytes for row in worked),
        device_seconds=round(sum(row.seconds for row in worked), 3),
    )


def _training_cost(run: Run, device_seconds: float) -> Cost:
    entries = run.manifest.entries
    used = [entries[slide.slide_id] for slide in run.slides]
    return Cost(
        num_slides=len(used),
        num_tiles=sum(record.num_tiles for record in used),
        num_bytes=sum(record.num_bytes for record in used),
        device_seconds=device_seconds,
    )


def _table(rows: Sequence[CohortRow]) -> bytes:
    """A cohort table of these rows that reads back as they are; columns that none of them fills are left out."""
    lines = [
        {"slide_id": row.slide_id, "path": row.uri, "patient_id": row.patient_id}
        | {name: getattr(row, name) for name in _COLUMNS[3:]}
        | {"event": None if row.event is None else int(row.event)}
        for row in sorted(rows, key=lambda row: row.slide_id)
    ]
    filled = [name for name in _COLUMNS if any(line[name] is not None for line in lines)]
    return write_parquet(lines, filled)


def _stem(name: str) -> str:
    """The table's own name, as far as a key may hold it."""
    return _UNFIT.sub("_", name.rpartition(".")[0]).lstrip("._-")[:64] or "cohort"


def settled(result: FlowResult, config: PipelineConfig | RetrainConfig) -> FlowResult:
    """Say where the pages lie; exit code 3 becomes 0 where the config says so."""
    for name in ("page", "assessment page"):
        if name in result.outputs:
            print(f"{name}: {result.outputs[name]}")
    is_ok = config.failures.partial_ok and result.exit_code is ExitCode.PARTIAL
    return dataclasses.replace(result, exit_code=ExitCode.OK) if is_ok else result
