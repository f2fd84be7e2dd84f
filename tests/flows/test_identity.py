"""What flows name by fingerprint keeps its name when a later version adds an option."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows import retrain, train
from flows.config.commands import ReportConfig, TrainConfig
from flows.config.flat import flat, from_keys, with_keys
from flows.config.roles import Role, part
from flows.config.words import parse
from flows.engine.records import StepOutput
from flows.engine.runner import Step, step_fingerprint
from flows.lifecycle import trigger
from flows.lifecycle.training_steps import rows_digest
from flows.runs import identity
from flows.runs.cohort import load_cohort
from flows.runs.folder import PinnedFeatures, Run, cohort_identity
from flows.runs.identity import RunIdentity, TrainingKeys, keys_identity
from flows.runs.training_data import choose_features, training_data
from flows.runs.training_places import open_places
from flows.scheduling.records import Schedule
from flows.submission.words import job_words
from mhim_core.cohort.rows import CohortRow
from mhim_core.cohort.splits import Split
from mhim_core.errors import ConflictError, IntegrityError
from mhim_core.fingerprint import fingerprint, to_plain
from mhim_core.registry.gate_options import GateOptions
from mhim_core.registry.promotions import Kind, Promotion
from mhim_core.registry.snapshot import snapshot
from mhim_core.slides.spec import SlidePolicy
from mhim_core.storage import LocalStorage
from mhim_core.store.manifest import read_manifest
from mhim_core.task import Task, TaskKind
from mhim_core.train import sections
from mhim_core.train.fit_options import FitOptions
from mhim_core.types import PatientId, SlideId

ROWS = (
    CohortRow(SlideId("a"), "a.svs", PatientId("p"), "no"),
    CohortRow(SlideId("b"), "b.svs", PatientId("q"), "yes", site="x"),
)
SPLIT = Split(0, (SlideId("a"),), (SlideId("b"),), ())
RECIPE = {"method": "plain", "fit": to_plain(FitOptions()), "seeds": [2021], "scheme": "final"}


@dataclass(frozen=True, kw_only=True)
class LaterFit(FitOptions):
    """With an option that a later version added."""

    added: float = field(default=0.5, metadata={"neutral": 0.0})


@dataclass(frozen=True, kw_only=True)
class LaterTrain(TrainConfig):
    """Its command."""

    fit: LaterFit = part(LaterFit, Role.identity)


@dataclass(frozen=True, kw_only=True)
class LaterReport(ReportConfig):
    """Of a later version."""

    added: int = field(default=2, metadata={"neutral": 1})


@dataclass(frozen=True, kw_only=True)
class LaterGate(GateOptions):
    """Of a later version."""

    added: float = field(default=0.5, metadata={"neutral": 0.0})


def config() -> TrainConfig:
    """As 0.1 had it by default: with one view."""
    return with_keys(TrainConfig.by_recipe(cohort="c.csv", store="s", out="o"), full_view_weight=0.0)


def stem(made: ReportConfig) -> str:
    return job_words("report", made, [], ship=False).stem


@pytest.mark.parametrize(
    ("digest", "pin"),
    [
        (
            lambda: fingerprint(keys_identity(config())),
            "939ea40252757499f948293bd00fe82a54be2c43fa1e3ed9f8d5ddcb7301e2a9",
        ),
        (lambda: rows_digest(ROWS), "c6aaab625d84b2d169612935be76c43b1c7c49cf0d1f3d9d690c39d51b37f1cc"),
        (lambda: cohort_identity(ROWS, (SPLIT,)), "a2b22c0e44c78185e756d39fdfb4fe3fb69f13965fd9368282cdd85fc31cf770"),
        (
            lambda: snapshot(ROWS, {}, SlidePolicy()).fingerprint,
            "f2b08f1ceb30c73c2a2b75356d14a870cee3e60bc5f645a0e84aa2a7d2682d76",
        ),
        (
            lambda: Schedule(flow="retrain", words=("name=lung",), cron="0 3 * * *", timezone="UTC", folder="/x").id,
            "retrain-535a3389",
        ),
        (
            lambda: step_fingerprint(
                Step("train", {"keys": keys_identity(config())}, lambda call: StepOutput(), ("embed",)),
                {"embed": StepOutput(identity={"a": 1})},
            ),
            "e8fa6774c31bb1bc684b9f54ea56190315bdfa89d2126c7cff66201be15d0241",
        ),
        (lambda: stem(ReportConfig(run="s3://b/r")), "report-c9a9835b5181"),
    ],
    ids=["keys", "rows", "cohort", "snapshot", "schedule", "step", "job"],
)
def test_what_0_1_named_by_fingerprint_keeps_its_name(digest: Callable[[], str], pin: str) -> None:
    assert digest() == pin


@pytest.fixture
def opened(
    tmp_path: Path,
    write_table: Callable[..., Path],
    cohort_rows: Callable[..., list[dict[str, str]]],
    made_store: Callable[..., str],
) -> Callable[..., Run]:
    """opened(LaterTrain, added=…): what `mhim train` of that version does before it starts Ray."""
    rows = cohort_rows(neg=6, pos=6)
    table, store = write_table(rows), made_store([row["slide_id"] for row in rows])

    def start(kind: type[TrainConfig], **more: Any) -> Run:
        words = [f"cohort={table}", store, f"out={tmp_path / 'run'}"]
        made = from_keys(kind, **flat(parse(TrainConfig, words, command="train")), **more)
        places = open_places(made)
        feature_set = choose_features(made, places)
        manifest = read_manifest(places.store, feature_set.fingerprint)
        cohort = load_cohort(made.data.cohort).cohort
        features = PinnedFeatures(places.store, feature_set, manifest)
        return train.open_run(made, places, cohort, features, training_data(made, cohort, manifest))

    return start


def test_a_run_is_resumed_by_a_later_version_until_its_option_is_used(
    opened: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = opened(TrainConfig)
    monkeypatch.setattr(sections, "SECTIONS", {"fit": LaterFit})
    assert opened(LaterTrain, added=0.0).record == first.record
    with pytest.raises(ConflictError, match=r"\(added: 0\.0 there, 0\.5 here\)"):
        opened(LaterTrain, added=0.5)


def test_a_later_section_of_options_is_no_difference_until_one_of_them_is_used() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Views:
        number: int = field(default=2, metadata={"neutral": 1})

    @dataclass(frozen=True, kw_only=True)
    class LaterRun(RunIdentity):
        views: Views = field(default=Views(), metadata={"neutral": Views(number=1)})

    task = Task(kind=TaskKind.classification, classes=("no", "yes"))
    run = identity.run_identity(config(), [1], task, "f")
    assert fingerprint(LaterRun(**vars(run), views=Views(number=1))) == fingerprint(run)
    assert fingerprint(LaterRun(**vars(run))) != fingerprint(run)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (RunIdentity, "method model fit seeds splits target task feature_set"),
        (TrainingKeys, "method model mhim fit seeds splits scheme split_files teacher target"),
        (Schedule, "flow words cron timezone folder"),
    ],
)
def test_every_field_since_0_1_says_what_is_neutral(kind: Any, fields: str) -> None:
    stated = {name for name, entry in kind.__dataclass_fields__.items() if "neutral" not in entry.metadata}
    assert stated == {*fields.split()}, "declare metadata={'neutral': …}; see CONTRIBUTING, Adding an option"


def test_a_run_of_a_newer_version_is_refused_by_the_option_that_it_uses(opened: Callable[..., Run]) -> None:
    opened(LaterTrain, added=0.5)
    with pytest.raises(ConflictError, match=r"\(added: 0\.5 there, none here\)"):
        opened(TrainConfig)


def test_a_job_has_the_id_that_it_had_until_a_later_key_is_used() -> None:
    assert stem(LaterReport(run="s3://b/r", added=1)) == stem(ReportConfig(run="s3://b/r"))
    assert stem(LaterReport(run="s3://b/r")) != stem(ReportConfig(run="s3://b/r"))


def test_the_keys_of_an_older_champion_have_later_options_at_their_neutral_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    champion: Any = SimpleNamespace(card=SimpleNamespace(recipe=RECIPE), words="lung@1f")
    assert "added" not in retrain.champion_keys(champion)
    monkeypatch.setattr(sections, "SECTIONS", {"fit": LaterFit})
    monkeypatch.setattr(retrain, "TrainConfig", LaterTrain)
    assert retrain.champion_keys(champion)["added"] == 0.0


def test_a_champion_of_a_newer_version_is_not_retrained_without_its_option() -> None:
    newer = RECIPE | {"fit": to_plain(LaterFit(added=0.5))}
    champion: Any = SimpleNamespace(card=SimpleNamespace(recipe=newer), words="lung@1f")
    with pytest.raises(IntegrityError, match=r"lung@1f.*added=0\.5"):
        retrain.champion_keys(champion)
    for planted in ({"aggregator_file": "/x.py"}, {"more": {"ray_address": "far:6379"}}):
        champion.card.recipe = RECIPE | planted
        with pytest.raises(IntegrityError, match=r"lung@1f.*no keys of a recipe"):
            retrain.champion_keys(champion)
    champion.card.recipe = RECIPE | {"distilled": True}
    with pytest.raises(IntegrityError, match=r"lung@1f.*distilled"):
        retrain.champion_keys(champion)


def test_the_gate_of_an_older_promotion_has_later_options_at_their_neutral_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def settings(gate: GateOptions) -> dict[str, Any]:
        decision = {"settings": to_plain({"gate": gate, "policy": SlidePolicy()})}
        record = Promotion(
            name="lung", number=1, version="v", base=0, kind=Kind.gate, by_flow="pipeline", decision=decision
        )
        return trigger._settings(record, LocalStorage(tmp_path))

    with pytest.raises(IntegrityError, match=r"promotion 1 of lung.*added=0\.5"):
        settings(LaterGate())
    assert "added" not in settings(GateOptions())
    monkeypatch.setattr(trigger, "GateOptions", LaterGate)
    assert settings(GateOptions())["added"] == 0.0
