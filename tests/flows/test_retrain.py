"""Pipeline and retraining from table to champion, in one process: real training, judging and promoting, of features
that are made up where the embedding would decode slides."""

import contextlib
import csv
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import flows.train
from cluster.session import Resources
from flows import retrain
from flows.commands import read_flow
from flows.engine.records import FlowPlace
from mhim_core.features import BACKEND_OF_0_1, MppUsed, SlideFeatures, SlideReading, TileCut
from mhim_core.registry.holdout import count_readings, read_holdout
from mhim_core.registry.models import read_model_folder
from mhim_core.registry.promotions import Kind, history, promote
from mhim_core.report.images import encode_png
from mhim_core.slides.source_identity import source_hint, source_identity
from mhim_core.storage import LocalStorage
from mhim_core.store.commit import commit
from mhim_core.store.feature_sets import FeatureSet
from mhim_core.train.context import SingleProcess
from mhim_core.types import FailureReason, Status, StatusRow

QUICK = ("epochs=2", "embed_dim=8", "learning_rate=0.01", "folds=2", "encoder=hed-texture")
EASY = ("gate_delta=1", "gate_brier_epsilon=1")
"""A gate that any other model passes which predicts numbers."""
STRICT = ("gate_delta=0", "gate_brier_epsilon=0")


class World(NamedTuple):
    """A cohort that can grow, and the commands on it."""

    folder: Path
    mhim: Callable[..., Any]
    embedded: list[str]
    """The slides that were embedded, in order."""

    def grow(self, *numbers: int, changed: Mapping[int, Mapping[str, str]] = MappingProxyType({})) -> None:
        """The table lists slides of these numbers; even ones are normal. `changed`: other cells of some."""
        rows = []
        for number in numbers:
            path = self.folder / f"s{number:02d}.svs"
            if not path.exists():
                path.write_bytes(f"slide {number}".encode() * 50)
            label = ("normal", "tumour")[number % 2]
            row = {"slide_id": path.stem, "path": path.name, "patient_id": f"CANARY{number:02d}", "label": label}
            rows.append({**row, **changed.get(number, {})})
        with (self.folder / "my.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    @property
    def words(self) -> tuple[str, ...]:
        return (f"cohort={self.folder}/my.csv", f"store={self.folder}/store", *self.name)

    @property
    def name(self) -> tuple[str, ...]:
        return (f"registry={self.folder}/registry", "name=lung")

    def pipeline(self, *more: str) -> Any:
        return self.mhim("pipeline", *self.words, f"out={self.folder}/runs", *QUICK, "max_heatmaps=0", *more)

    def retrain(self, *more: str) -> Any:
        return self.mhim("retrain", *self.words, *more)

    def status(self) -> str:
        return str(self.mhim("flow", "status", "lung", self.name[0]).out)

    @property
    def registry(self) -> LocalStorage:
        return LocalStorage(self.folder / "registry")

    def champions(self) -> list[str]:
        return [record.version for record in history(self.registry, "lung")]

    def holdout(self) -> list[int]:
        """The numbers of the slides that were set aside."""
        holdout = read_holdout(self.registry, "lung")
        assert holdout is not None
        return [int(slide.slide_id.lstrip("s")) for slide in holdout.slides]

    def assessments(self) -> list[dict[str, Any]]:
        """Of retrainings."""
        paths = self.folder.glob("registry/flows/retrain/lung/*/assessment-*.json")
        return [json.loads(path.read_text()) for path in paths]

    def num_readings(self) -> int:
        return count_readings(self.registry, "lung")


@pytest.fixture(scope="module")
def first(
    tmp_path_factory: pytest.TempPathFactory, run_mhim: Callable[..., Any], module_patch: pytest.MonkeyPatch
) -> World:
    """The first champion, of two stages, made once; each test has a copy of the world."""
    world = World(tmp_path_factory.mktemp("world"), run_mhim, make_up(module_patch))
    world.grow(*range(24))
    ended = world.pipeline("gate_floor=0")
    assert ended.code == 0, ended
    return world


@pytest.fixture
def world(first: World, tmp_path: Path, mhim: Callable[..., Any]) -> World:
    shutil.copytree(first.folder, tmp_path / "world")
    first.embedded.clear()
    return World(tmp_path / "world", mhim, first.embedded)


@pytest.fixture(scope="module")
def module_patch() -> Iterator[pytest.MonkeyPatch]:
    """Training in this process instead of on Ray's workers, for as long as the tests of this file run.

    The figures of every report that is written on the way, which other tests look at, are not drawn in full.
    """

    @contextlib.contextmanager
    def session(*_: object) -> Iterator[Resources]:
        yield Resources(1, 1.0, 0.0)

    def run_workers(work: Callable[..., object], payload: object, *_: object) -> object:
        return work(payload, SingleProcess(), lambda event: None)

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        drawn = encode_png(np.zeros((1, 1, 3), np.uint8))  # pages look at a picture's header
        patch.setattr("matplotlib.figure.Figure.savefig", lambda figure, file, **_: file.write(drawn))
        patch.setattr("flows.train.ray_session", session)
        patch.setattr("cluster.training.run_workers", run_workers)
        yield patch
    torch.set_num_threads(num_threads)


def make_up(patch: pytest.MonkeyPatch) -> list[str]:
    """`mhim embed` with features made up in place of decoding: three tiles a slide, by which its label can be told."""
    embedded: list[str] = []

    def pending(tasks: Sequence[Any], job: Any, config: Any, ledgers: Any, cohort_input: Any) -> list[StatusRow]:
        (ledger,) = ledgers
        rows = []
        for task in tasks:
            embedded.append(task.slide_id)
            path = Path(task.uri)
            if path.read_bytes().startswith(b"broken") or path.with_suffix(".outage").exists():
                row = StatusRow(task.slide_id, Status.FAILED, FailureReason.READ, stage="tiles")
                ledger.record_failure(task, row, job.policy, cohort_input.hints.get(task.slide_id))
            else:
                record = commit(ledger.storage, ledger.feature_set, features_of(task, ledger.feature_set)).record
                row = StatusRow(task.slide_id, Status.OK, num_tiles=3, seconds=0.5, commit_key=record.commit_key)
            rows.append(row)
        return rows

    patch.setattr("flows.embed.embed_pending", pending)
    return embedded


def features_of(task: Any, feature_set: FeatureSet) -> SlideFeatures:
    number = int(task.slide_id.lstrip("s"))
    rng = np.random.default_rng(number)
    values = rng.standard_normal((3, feature_set.dim)) + (number % 2)
    x = np.arange(3, dtype=np.int32) * 256
    return SlideFeatures(
        slide_id=task.slide_id,
        features=values.astype(np.float16),
        coords_l0_px=np.stack([x, np.zeros_like(x)], axis=1),
        tissue_share=np.ones(3, np.float32),
        background_share=np.zeros(3, np.float32),
        reading=SlideReading(
            source=source_identity(task.uri),
            hint=source_hint(task.uri),
            source_sha256="",
            mpp=MppUsed(0.5, 0.5, "slide"),
            effective_mpp=(0.5, 0.5),
            upsample=1.0,
            backend=BACKEND_OF_0_1,
        ),
        cut=TileCut(tiling=feature_set.tiling, tile_size_l0_px=(256, 256), width_l0_px=1024, height_l0_px=256),
        encoder=feature_set.encoder,
    )


def test_the_first_champion_stands_on_a_holdout_and_the_same_pipeline_again_does_nothing(world: World) -> None:
    assert len(world.champions()) == 1
    assert world.num_readings() == 1
    before = sorted(world.folder.rglob("*"))
    again = world.pipeline("gate_floor=0")
    assert again.code == 0
    assert "── judge: done" in again.out
    assert sorted(world.folder.rglob("*")) == before
    assert world.embedded == []


def test_nothing_new_is_nothing_to_do_wherever_the_files_lie_now(world: World) -> None:
    ended = world.retrain(*EASY)
    assert ended.code == 0
    assert "number 1: nothing new" in ended.out
    assert "discover" in world.status()
    assert world.embedded == []
    for path in world.folder.glob("*.svs"):
        path.touch()
    again = world.retrain()
    assert again.code == 0
    assert "nothing to do" in again.out
    assert world.num_readings() == 1


def test_new_slides_make_a_challenger_that_is_promoted_once_and_rolled_back_for_good(world: World) -> None:
    world.grow(*range(30))
    ended = world.retrain(*EASY)
    assert ended.code == 0, ended
    assert "number 1: 6 new slides" in ended.out
    assert sorted(world.embedded) == [f"s{number}" for number in range(24, 30)]
    first, second = world.champions()
    (assessment,) = world.assessments()
    assert (assessment["champion"], assessment["challenger"]) == ({"number": 1, "version": first}, second)
    assert assessment["training"]["slides"] == 26
    assert set(assessment["changes"]) >= {"data"}
    page = next(world.folder.glob("registry/flows/retrain/lung/*/report.html")).read_text()
    for words in ("Promoted", "Not inferior", second[:8], first[:8], "6 new slides", "data:image/png"):
        assert words in page
    again = world.retrain(*EASY)
    assert "number 2: nothing new" in again.out
    assert world.mhim("model", "rollback", "lung", f"to={first}", world.name[0]).code == 0
    rolled_back = world.retrain(*EASY)
    assert rolled_back.code == 0, rolled_back
    assert "nothing to do" in rolled_back.out
    other_keys = world.retrain(*EASY, "epochs=1")
    assert "judged against this champion before" in other_keys.out
    assert world.champions() == [first, second, first]
    assert world.num_readings() == 2
    assert len(world.assessments()) == 1


def test_a_challenger_may_start_from_the_champion_s_weights(world: World) -> None:
    world.grow(*range(26))
    ended = world.retrain(*EASY, "warm_start=true")
    assert ended.code == 0, ended
    first, second = world.champions()
    (assessment,) = world.assessments()
    assert f"training started from lung@{first}" in assessment["changes"]
    (run,) = world.folder.glob("registry/runs/lung/final-*")
    model = json.loads((world.folder / f"registry/models/lung/{first}/card.json").read_text())
    pinned = json.loads((run / "run.json").read_text())["identity"]["warm_start"]["models"]
    assert list(pinned.values()) == [member["sha256"] for member in model["members"]]
    assert all((run / f"initial/{digest}.safetensors").exists() for digest in pinned.values())
    (estimate,) = world.folder.glob("registry/runs/lung/train-*")
    assert not (estimate / "initial").exists(), "the champion has seen the folds' test patients"
    shown = world.mhim("model", "show", f"lung@{second}", world.name[0])
    assert f"started from lung@{first}" in shown.out
    assert "nothing new" in world.retrain(*EASY, "warm_start=true").out
    dropped = [number for number in range(8) if number not in world.holdout()][:2]
    world.grow(*(number for number in range(28) if number not in dropped))
    assert world.retrain(*EASY, "warm_start=true").code == 0
    third = read_model_folder(world.registry, "lung", world.champions()[2]).card.trained_on
    assert third.num_patients < len(third.patients)
    assert all(third.knows_patient(f"CANARY{number:02d}") for number in set(range(28)) - set(world.holdout()))


WORSE = (*STRICT, "learning_rate=1e-6", "max_heatmaps=0", "folds=1")
CHANGES = "may_change=data,seed,epochs,thresholds,learning_rate"


@pytest.mark.fault(36)
def test_a_worse_challenger_is_not_promoted_and_the_reason_is_said(world: World) -> None:
    world.grow(*range(26))
    refused = world.retrain(*WORSE)
    assert refused.code == 2, "what the gate would refuse is refused before any work"
    assert "learning_rate (0.01 → 1e-06); name it in may_change=" in refused.err
    assert world.embedded == []
    ended = world.retrain(*WORSE, CHANGES)
    assert ended.code == 0, "a champion that is kept is ok"
    assert len(world.champions()) == 1
    (assessment,) = world.assessments()
    assert not assessment["decision"]["promote"]
    assert "brier" in assessment["reason"] or "non_inferior" in assessment["reason"]
    assert f"{world.champions()[0]} stays champion: {assessment['reason']}" in ended.out
    assert "Not promoted" in next(world.folder.glob("registry/flows/retrain/lung/*/report.html")).read_text()
    embedded = list(world.embedded)
    assert "nothing to do" in world.retrain(*WORSE, CHANGES).out
    lenient = world.retrain(*EASY)
    assert "judged against this champion before" in lenient.out, "other limits are no second chance for the same data"
    assert world.embedded == embedded
    assert world.num_readings() == 2


class Killed(BaseException):
    """Stands for kill -9 of the driver."""


STEPS = ("discover", "embed", "train", "evaluate", "report", "final", "register", "judge", "promote", "assess")


def test_killed_just_after_each_step_s_start_and_run_again_it_completes_with_one_promotion(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.grow(*range(26))
    start = FlowPlace.start_attempt
    (champion,) = world.champions()
    for step in STEPS:

        def die(place: FlowPlace, name: str, digest: str, step: str = step) -> int:
            number = start(place, name, digest)
            if name == step:
                raise Killed
            return number

        with monkeypatch.context() as patch:
            patch.setattr(FlowPlace, "start_attempt", die)
            with pytest.raises(Killed):
                world.retrain(*EASY, "folds=1")
        assert f"{step:<8}  started, no end" in world.status()
        champions = world.champions()
        assert champions[0] == champion
        assert len(champions) == (2 if step == "assess" else 1)
        assert world.mhim("model", "show", "lung", world.name[0]).code == 0, "the champion stays loadable"
    ended = world.retrain(*EASY, "folds=1")
    assert ended.code == 0
    assert "interrupted after its judgement is completed" in ended.out
    assert len(world.champions()) == 2
    assert world.num_readings() == 2
    assert sorted(world.embedded) == ["s24", "s25"]
    assert len(list(world.folder.glob("registry/flows/retrain/lung/*/report.html"))) == 1
    assert "nothing new" in world.retrain(*EASY).out


@pytest.mark.fault(37)
def test_a_kill_between_the_promotion_and_its_done_record_promotes_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.grow(*range(26))
    write = FlowPlace.write_done

    def die(place: FlowPlace, done: Any) -> Any:
        if done.step == "promote":
            raise Killed
        return write(place, done)

    with monkeypatch.context() as patch:
        patch.setattr(FlowPlace, "write_done", die)
        with pytest.raises(Killed):
            world.retrain(*EASY, "folds=1")
    assert len(world.champions()) == 2
    world.grow(*range(28))  # the cohort goes on growing
    assert world.retrain(*EASY, "folds=1").code == 0
    assert len(world.champions()) == 2
    assert "number 2: 2 new slides" in world.retrain(*EASY, "folds=1").out


def killed_at(monkeypatch: pytest.MonkeyPatch, method: str, step: str) -> Any:
    """A context in which the driver dies when the step's start, or done, record is to be written."""
    original = getattr(FlowPlace, method)

    def die(place: FlowPlace, step_or_call: Any, *more: str) -> Any:
        if (step_or_call if isinstance(step_or_call, str) else step_or_call.step) == step:
            raise Killed
        return original(place, step_or_call, *more)

    context = monkeypatch.context()

    @contextlib.contextmanager
    def within() -> Iterator[None]:
        with context as patch:
            patch.setattr(FlowPlace, method, die)
            with pytest.raises(Killed):
                yield

    return within()


def test_a_challenger_that_passed_is_promoted_though_another_retraining_was_judged_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.grow(*range(26))
    with killed_at(monkeypatch, "start_attempt", "final"):
        world.retrain(*EASY, "folds=1")
    world.grow(*range(28))
    assert world.retrain(*WORSE, CHANGES).code == 0
    assert len(world.champions()) == 1
    world.grow(*range(26))
    with killed_at(monkeypatch, "start_attempt", "promote"):
        world.retrain(*EASY, "folds=1")
    ended = world.retrain(*EASY, "folds=1")
    assert ended.code == 0, ended
    assert len(world.champions()) == 2, "what passed and was cut off is completed"


def test_a_judgement_without_its_done_record_counts_whoever_comes_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.grow(*range(26))
    with killed_at(monkeypatch, "write_done", "judge"):
        world.retrain(*EASY, "folds=1")
    readings = world.num_readings()
    ended = world.retrain(*EASY, "folds=1", "epochs=3")
    assert ended.code == 0, ended
    assert len(world.champions()) == 2
    assert world.num_readings() == readings + 1, "the holdout was read for the other model's card, and not to judge it"
    first, second = world.assessments()
    assert first == second, "the judgement that was made first"
    assert world.champions()[1] == first["challenger"]
    for more in ((), ("epochs=3",)):
        assert "nothing new" in world.retrain(*EASY, "folds=1", *more).out
    assert len(world.champions()) == 2


def test_rolled_back_weights_are_not_promoted_again_under_another_version(world: World, tmp_path: Path) -> None:
    world.grow(*range(26))
    assert world.retrain(*EASY, "folds=1").code == 0
    world.grow(*range(28))
    assert world.retrain(*EASY, "folds=1").code == 0
    first, second, third = world.champions()
    assert world.mhim("model", "rollback", "lung", f"to={first}", world.name[0]).code == 0
    world.grow(*range(29), changed={28: {"label": ""}})  # another manifest: the same weights have another version
    ended = world.retrain(*EASY, "folds=1", f"out={tmp_path / 'elsewhere'}")
    assert ended.code == 0, ended
    (challenger,) = (
        assessment["challenger"] for assessment in world.assessments() if assessment["champion"]["number"] == 4
    )
    assert "not_withdrawn: this very model was rolled back" in ended.out
    assert world.champions() == [first, second, third, first]
    assert challenger not in (second, third)


def test_gate_and_admission_stay_as_they_were_where_they_are_not_given(world: World) -> None:
    world.grow(*range(26))
    assert world.retrain(*EASY, "folds=1", "never_miss=s24", "max_upsample=1.5").code == 0
    world.grow(*range(28))
    ended = world.retrain("folds=1")
    assert "never_miss=s24, as before; give never_miss= to change it" in ended.out
    settings = [assessment["settings"] for assessment in world.assessments()]
    assert settings[0] == settings[1]
    assert (settings[1]["gate"]["never_miss"], settings[1]["policy"]["max_upsample"]) == (["s24"], 1.5)
    world.grow(*range(29))
    retrained = world.retrain("folds=1", "gate_delta=0.5")
    assert "gate_delta=0.5, as given; it was 1.0" in retrained.out


def test_a_slide_without_a_label_trains_nothing_anew(world: World) -> None:
    world.grow(*range(25), changed={24: {"label": ""}})
    ended = world.pipeline("gate_floor=0")
    assert ended.code == 0, ended
    assert world.embedded == ["s24"]
    for step in ("train", "final", "judge", "promote"):
        assert f"── {step}: done" in ended.out


def test_a_run_of_folds_that_a_person_promoted_is_challenged_and_its_knowledge_of_the_holdout_is_said(
    world: World,
) -> None:
    run = world.folder / "by-hand"
    common = [word for word in world.words if not word.startswith(("registry=", "name="))]
    quick = [word for word in QUICK if not word.startswith("encoder=")]
    assert world.mhim("train", *common, f"out={run}", *quick).code == 0
    registered = world.mhim("model", "register", "lung", f"run={run}", world.name[0])
    version = registered.out.split("@")[1].split(":")[0]
    promoted = world.mhim("model", "promote", "lung", f"version={version}", world.name[0])
    assert "was trained on patients of the holdout" in promoted.out
    world.grow(*range(26))
    ended = world.retrain(*EASY)
    assert ended.code == 0, ended
    (assessment,) = world.assessments()
    checks = {check["name"]: check for check in assessment["decision"]["checks"]}
    assert checks["declared_changes"]["passed"], checks["declared_changes"]
    assert checks["champion_unseen"]["passed"] is None
    assert "its figures are too good" in checks["champion_unseen"]["reason"]


@pytest.mark.fault(35)
def test_two_retrainings_fired_at_once_are_one(world: World) -> None:
    world.grow(*range(26))
    config = read_flow("retrain", [*world.words, *EASY, "folds=1"])
    with ThreadPoolExecutor(2) as pool:
        ended = [future.result().exit_code for future in [pool.submit(retrain.run, config) for _ in range(2)]]
    assert ended == [0, 0]
    assert len(world.champions()) == 2
    assert len(world.assessments()) == 1
    assert world.num_readings() == 2


def test_a_champion_that_is_replaced_meanwhile_is_judged_against_again_without_training_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.grow(*range(26))
    assert world.retrain(*EASY, "folds=1").code == 0
    first, second = world.champions()
    world.mhim("model", "rollback", "lung", f"to={first}", world.name[0])
    world.grow(*range(28))
    start, trained = FlowPlace.start_attempt, []

    def by_hand(place: FlowPlace, name: str, digest: str) -> int:
        if name == "promote" and len(world.champions()) == 3:
            promote(place.storage, "lung", second, base=3, by_flow="model promote", kind=Kind.manual)
        return start(place, name, digest)

    def fit_all(run: Any, plan: Any, config: Any) -> Any:
        trained.append(run.storage.uri)
        return real(run, plan, config)

    real = flows.train.fit_all
    monkeypatch.setattr("flows.train.fit_all", fit_all)
    monkeypatch.setattr(FlowPlace, "start_attempt", by_hand)
    ended = world.retrain(*EASY, "folds=1")
    assert ended.code == 0, ended
    assert f"{second} became champion meanwhile; nothing was promoted" in ended.out
    assert world.champions()[:4] == [first, second, first, second]
    assert len(world.champions()) == 5
    assert len(trained) == 2, "an estimate and a model, once each"


def test_a_new_slide_of_a_holdout_patient_and_a_copy_of_a_holdout_slide_are_not_learned_from(world: World) -> None:
    number = world.holdout()[0]
    copy = world.folder / "s26.svs"
    copy.write_bytes((world.folder / f"s{number:02d}.svs").read_bytes())
    relative = {"patient_id": f"CANARY{number:02d}", "label": ("normal", "tumour")[number % 2]}
    world.grow(*range(25), changed={24: relative})
    assert "nothing new" in world.retrain().out
    rows = [*range(24), 26]
    world.grow(*(row for row in rows if row != number), changed={})
    assert "nothing new" in world.retrain().out
    assert world.num_readings() == 1


def test_a_holdout_label_that_changed_refuses_every_challenger(world: World) -> None:
    number = world.holdout()[0]
    other = ("tumour", "normal")[number % 2]
    world.grow(*range(26), changed={number: {"label": other}})
    ended = world.retrain(*EASY, "folds=1")
    assert ended.code == 0
    assert len(world.champions()) == 1
    assert "holdout slides are not as they were frozen" in world.assessments()[0]["reason"]


def test_a_changed_label_is_new_data_and_a_removed_slide_too(world: World) -> None:
    changed_number, other = [number for number in range(24) if number not in world.holdout()][:2]
    rows = [number for number in range(24) if number != other]
    changed = {changed_number: {"label": ("tumour", "normal")[changed_number % 2]}}
    world.grow(*rows, changed=changed)
    ended = world.retrain(*EASY, "folds=1")
    assert "number 1: 1 changed slide, 1 gone" in ended.out
    assert world.assessments()[0]["training"]["slides"] == 19


def test_slides_that_fail_are_no_new_data_and_are_not_tried_again(world: World) -> None:
    world.grow(*range(25))
    (world.folder / "s24.svs").write_bytes(b"broken" * 100)
    ended = world.retrain(*EASY)
    assert ended.code == 3
    assert "there is nothing new to train on" in ended.out
    assert world.embedded == ["s24"]
    again = world.retrain(*EASY, "partial_ok=true")
    assert again.code == 0
    assert "nothing to do" in again.out
    assert world.embedded == ["s24"]
    assert world.num_readings() == 1


def test_a_slide_that_failed_and_was_embedded_since_is_new_data_once(world: World) -> None:
    world.grow(*range(26))
    outage = world.folder / "s25.outage"
    outage.touch()
    assert world.retrain(*EASY, "folds=1", "partial_ok=true").code == 0
    assert len(world.champions()) == 2
    assert "nothing new\n" in world.retrain(*EASY, "folds=1").out
    outage.unlink()
    assert world.mhim("embed", *world.words[:2], "encoder=hed-texture").code == 0
    ended = world.retrain(*EASY, "folds=1")
    assert "have features now that had none" in ended.out
    assert len(world.champions()) == 3
    assert "nothing new\n" in world.retrain(*EASY, "folds=1").out
    assert world.embedded == ["s24", "s25", "s25"]


def test_too_many_failed_slides_end_it_before_training(world: World) -> None:
    for number in range(24, 30):
        (world.folder / f"s{number}.svs").write_bytes(f"broken {number}".encode() * 100)
    world.grow(*range(30))
    for _ in range(2):
        assert world.retrain(*EASY).code == 4
    assert "failed, exit code 4" in world.status()
    assert not list(world.folder.glob("registry/runs/**/run.json"))
    assert len(world.embedded) == 6


def test_slides_of_a_prefix_that_have_no_label_yet_are_embedded_and_wait(world: World) -> None:
    (world.folder / "s40.svs").write_bytes(b"slide 40" * 50)
    (world.folder / "notes.txt").write_text("no slide")
    ended = world.retrain(f"slides_prefix={world.folder}")
    assert ended.code == 0, ended
    assert "nothing new; 1 slides without a label are not embedded yet" in ended.out
    assert world.embedded == ["s40"]
    again = world.retrain(f"slides_prefix={world.folder}")
    assert again.code == 0
    assert world.embedded == ["s40"]
    assert world.num_readings() == 1


def age(world: World, days: float) -> None:
    """The champion's promotion was written that long ago, by the store's clock."""
    (record,) = world.folder.glob("registry/models/lung/promotions/*.json")
    then_s = record.stat().st_mtime - days * 86400
    os.utime(record, (then_s, then_s))


def test_an_old_champion_is_challenged_once_a_period_by_the_store_s_clock_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for shift_s in (-2 * 86400, 2 * 86400):
        now_s = time.time() + shift_s
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda now_s=now_s: now_s)
            assert "nothing new\n" in world.retrain("max_age=1").out, "whatever this machine's clock says"
    age(world, days=8)
    assert "nothing new\n" in world.retrain("max_age=9").out
    ended = world.retrain("max_age=7", *EASY, "folds=1")
    assert ended.code == 0, ended
    assert "the champion is older than 7 days" in ended.out
    assert "seed=2022: the champion's own would train it again" in ended.out
    assert len(world.champions()) == 2
    assert "seed ([2021] → [2022])" in world.assessments()[0]["changes"]
    (second,) = sorted(world.folder.glob("registry/models/lung/promotions/*.json"))[1:]
    second.unlink()  # as if it had been kept
    assert "nothing to do" in world.retrain("max_age=7", *EASY, "folds=1").out
    age(world, days=7)
    other = world.retrain("max_age=7", "seed=7", *EASY, "folds=1")
    assert other.code == 0, "the next period"
    assert len(world.champions()) == 2


@pytest.mark.fault(39)
def test_no_patient_is_named_in_records_pages_and_output(world: World) -> None:
    world.grow(*range(26))
    ended = world.retrain(*EASY, "folds=1")
    assert "CANARY" not in ended.out + ended.err + world.status()
    for part in ("flows", "models"):
        texts = [path for path in (world.folder / "registry" / part).rglob("*") if path.is_file()]
        assert texts
        assert not [path for path in texts if b"CANARY" in path.read_bytes()]


def test_what_has_no_champion_cannot_be_retrained(world: World) -> None:
    words = [word for word in world.words if not word.startswith("name=")]
    ended = world.mhim("retrain", *words, "name=liver")
    assert ended.code == 2
    assert "liver has no champion to challenge; mhim pipeline" in ended.err


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("gate_metric=best", "gate_metric=best is none of a classification"),
        ("scheme=final", "choose another scheme"),
        ("max_age=0", "days above 0"),
        ("folds=0", "at least 1"),
        ("aggregator=transmil", "may_change="),
        ("retries=-1", "0 or more"),
        ("warm_start=true seed=7", "warm_start=true: lung@"),
        ("warm_start=true seeds=2", "has no model of the seeds 2022"),
        ("name=a/b", "cannot name a model"),
    ],
)
def test_keys_that_cannot_be_are_refused_before_any_work(world: World, word: str, reason: str) -> None:
    words = [own_word for own_word in world.words if not word.startswith("name=") or not own_word.startswith("name=")]
    ended = world.mhim("retrain", *words, *word.split())
    assert ended.code == 2, ended
    assert reason in ended.err


def test_of_two_first_pipelines_of_one_name_the_later_ends_in_a_conflict(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [f"cohort={world.folder}/my.csv", f"store={world.folder}/store", world.name[0], "name=liver"]
    (run,) = world.folder.glob("runs/final-*")
    registered = world.mhim("model", "register", "liver", f"run={run}", world.name[0])
    version = registered.out.split("@")[1].split(":")[0]
    start = FlowPlace.start_attempt

    def quicker(place: FlowPlace, name: str, digest: str) -> int:
        if name == "promote":
            promote(world.registry, "liver", version, base=0, by_flow="another pipeline")
        return start(place, name, digest)

    monkeypatch.setattr(FlowPlace, "start_attempt", quicker)
    ended = world.mhim(
        "pipeline", *words, f"out={world.folder}/runs", *QUICK, "max_heatmaps=0", "seed=7", "gate_floor=0"
    )
    assert ended.code == 5, ended
    assert f"{version} became champion meanwhile; nothing was promoted; mhim retrain judges these data" in ended.err
    assert [promotion.version for promotion in history(world.registry, "liver")] == [version]


@pytest.fixture
def keys(world: World) -> tuple[str, ...]:
    """The words of whoever signs with a key of their own and trusts it alone."""
    folder = world.folder / "keys"
    assert world.mhim("model", "keygen", f"out={folder}/own.pem").code == 0
    assert (folder / "own.pem").stat().st_mode & 0o777 == 0o600
    return f"signing_key={folder}/own.pem", "require_signed=true", f"trusted_keys={folder}"


@pytest.mark.fault(45)
def test_where_signatures_are_required_only_signed_models_are_retrained_shown_and_predicted_with(
    world: World, keys: tuple[str, ...]
) -> None:
    signing, *trust = keys
    world.grow(*range(32))
    predict = ("predict", "model=lung@champion", world.name[0], world.words[0], f"out={world.folder}/predictions")
    ls, show = ("model", "ls", world.name[0]), ("model", "show", "lung", world.name[0])
    first = world.champions()[0]
    back = ("model", "rollback", "lung", f"to={first}", world.name[0])
    refused = [
        world.retrain(*keys, *EASY),
        world.mhim("model", "promote", "lung", f"version={first}", world.name[0], *keys),
        world.mhim(*back, *keys),
        *(world.mhim(*words, *trust) for words in (ls, show, predict)),
    ]
    for ended in refused:
        assert (ended.code, world.embedded, world.champions()) == (2, [], [first])
        assert "models/lung/" in ended.err
    assert world.retrain(*trust).code == 2, "its own promotion would be refused"
    assert world.mhim("model", "sign", "lung", world.name[0], signing).code == 0
    ended = world.retrain(*keys, *EASY, "warm_start=true")
    assert (ended.code, len(world.champions())) == (0, 2), ended
    for words in (ls, show, predict):
        assert world.mhim(*words, *trust).code == 0
    assert "nothing new" in world.retrain().out, "who asks for no signatures reads the same registry"
    assert (world.mhim(*back).code, len(world.champions())) == (0, 3)
    ended = world.mhim(*predict, *trust)
    assert (ended.code, "promotions/000003.json" in ended.err) == (2, True)


def test_the_first_champion_is_signed_by_the_pipeline_that_makes_it(world: World, keys: tuple[str, ...]) -> None:
    shutil.rmtree(world.folder / "registry")
    assert world.pipeline("gate_floor=0", *keys).code == 0
    assert world.mhim("model", "show", "lung", world.name[0], *keys[1:]).code == 0


def test_keys_that_cannot_sign_or_be_trusted_are_refused(world: World, keys: tuple[str, ...]) -> None:
    own = world.folder / "keys/own.pem"
    show = ("model", "show", "lung", world.name[0])
    sign = ("model", "sign", "lung", world.name[0])

    def refused(*words: str) -> str:
        ended = world.mhim(*words)
        assert ended.code == 2, ended
        return str(ended.err)

    assert "own.pem is there already" in refused("model", "keygen", f"out={own}")
    assert "belong together" in refused(*show, "require_signed=true")
    assert "belong together" in refused(*show, f"trusted_keys={own.parent}")
    assert "cannot be read" in refused(*show, "require_signed=true", f"trusted_keys={world.folder / 'none'}")
    os.mkfifo(world.folder / "pipe")
    assert "it is a pipe" in refused(*show, "require_signed=true", f"trusted_keys={world.folder / 'pipe'}")
    assert "it is a pipe" in refused(*sign, f"signing_key={world.folder / 'pipe'}")
    assert "signing_key= is needed" in refused(*sign)
    assert "no unencrypted private key" in refused(*sign, f"signing_key={own.parent / 'own.pub'}")
    assert "needs signing_key=" in refused(*sign, "signing_command=cat")
    own.parent.chmod(0o777)
    assert "can be written by other users" in refused(*show, *keys[1:])
    own.parent.chmod(0o700)
    own.chmod(0o644)
    assert "can be read by others" in refused(*sign, keys[0])
    assert list(world.registry.list("models/lung/signatures")) == []
