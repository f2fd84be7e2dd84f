"""The gate: what refuses a challenger, what does not, and that every check is listed whatever the others say."""

import functools
import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mhim_core.errors import ConfigError, InputError
from mhim_core.evaluation.held_out import HeldOut
from mhim_core.features import SourceIdentity
from mhim_core.fingerprint import canonical_json
from mhim_core.metrics import auroc, brier
from mhim_core.registry import checks, gate_checks
from mhim_core.registry.card import RegistryCard, TrainedOn
from mhim_core.registry.contest import Check
from mhim_core.registry.figures import Contender
from mhim_core.registry.gate import GateDecision, judge
from mhim_core.registry.gate_options import GateOptions, HoldoutOptions
from mhim_core.registry.holdout import Holdout, HoldoutSlide
from mhim_core.task import ClassTarget, SurvivalTarget, Target, Task, TaskKind, ValueTarget
from mhim_core.types import PatientId, SlideId

PAGE = Path(__file__).parents[3] / "CONTRIBUTING.md"
Make = Callable[..., Any]
NUM = 40
OPTIONS = GateOptions(gate_replicates=200, gate_delta=0.1)
CLASSES = Task(kind=TaskKind.classification, classes=("normal", "tumour"))


def is_tumour(index: int) -> bool:
    return index % 4 == 0


def classified(
    probability: Callable[[int], float], site: Callable[[int], str | None] = lambda _: None
) -> list[HeldOut]:
    """NUM slides of as many patients; `probability(index)` of tumour."""
    rows = []
    for index in range(NUM):
        p = probability(index)
        logits = (0.0, math.log(p / (1 - p)) if math.isfinite(p) else p)
        rows.append(row(index, ClassTarget(int(is_tumour(index))), logits, site(index)))
    return rows


def row(index: int, target: Target, logits: tuple[float, ...], site: str | None = None) -> HeldOut:
    return HeldOut("x", 0, 0, f"s{index:03}", f"p{index:03}", site, target, logits)


def good(index: int) -> float:
    """Tells the classes apart but for two of each."""
    wrong = index in (4, 5, 8, 9)
    return (0.8 if is_tumour(index) != wrong else 0.2) + index / 1000


def better(index: int) -> float:
    return (0.85 if is_tumour(index) else 0.15) + index / 1000


def worse(index: int) -> float:
    return 0.5 + (index * 7 % NUM) / 1000


def holdout_of(task: Task = CLASSES) -> Holdout:
    slides = tuple(
        HoldoutSlide(
            slide_id=SlideId(f"s{index:03}"),
            patient_id=PatientId(f"p{index:03}"),
            label="any",
            time=None,
            event=None,
            source=SourceIdentity(10, f"s{index:03}"),
        )
        for index in range(NUM)
    )
    return Holdout(name="lung", task=task, options=HoldoutOptions(), slides=slides)


@pytest.fixture
def champion(made: Make) -> Contender:
    return Contender(made(b"champion").card, classified(good))


@pytest.fixture
def challenge(made: Make) -> Callable[..., Contender]:
    """challenge(better, **changes of the card) → a challenger trained on more data."""

    def make(probability: Callable[[int], float] | Sequence[HeldOut], **changes: Any) -> Contender:
        rows = classified(probability) if callable(probability) else list(probability)
        card: RegistryCard = made(b"challenger").card
        return Contender(replace(card, **changes), rows)

    return make


def checks_of(decision: GateDecision) -> dict[str, Check]:
    return {check.name: check for check in decision.checks}


def refused_by(decision: GateDecision) -> set[str]:
    assert not decision.promote
    return {check.name for check in decision.failed}


NAMES = [
    "new_model",
    "same_encoder",
    "same_tiling",
    "same_task",
    "declared_changes",
    "not_withdrawn",
    "holdout_unseen",
    "holdout_unchanged",
    "holdout_predicted",
    "finite",
    "non_inferior",
    "brier",
    "never_miss",
]


def test_a_better_challenger_passes_every_check(champion: Contender, challenge: Make) -> None:
    decision = judge(champion, challenge(better), holdout_of(), OPTIONS)
    assert decision.promote
    assert [check.name for check in decision.checks] == NAMES
    assert all(check.passed for check in decision.checks)
    assert decision.reason == "all 13 checks passed"


def test_the_figures_are_those_of_the_metrics(champion: Contender, challenge: Make) -> None:
    decision = judge(champion, challenge(better), holdout_of(), OPTIONS)
    truth = [int(is_tumour(index)) for index in range(NUM)]
    figures = decision.figures
    for role, probability in (("champion", good), ("challenger", better)):
        score = [probability(index) for index in range(NUM)]
        assert figures[role]["auroc"]["value"] == pytest.approx(auroc(truth, score))
        assert figures[role]["brier"]["value"] == pytest.approx(brier(truth, score))
    assert figures["challenger"]["auroc"]["value"] == 1
    gain = figures["challenger"]["auroc"]["value"] - figures["champion"]["auroc"]["value"]
    assert figures["gain"]["value"] == pytest.approx(gain)
    assert figures["gain"]["low"] <= gain <= figures["gain"]["high"]
    assert (figures["num_bags"], figures["num_patients"], figures["metric"]) == (NUM, NUM, "auroc")
    # decided at the threshold 0.4 of the cards
    assert figures["champion"]["sensitivity"]["value"] == pytest.approx(0.8)
    checks = json.loads(canonical_json(decision.to_dict()))["checks"]
    assert [check["name"] for check in checks] == NAMES
    assert {frozenset(check) for check in checks} == {frozenset({"name", "passed", "found", "limit", "reason"})}
    assert checks[NAMES.index("holdout_predicted")]["found"] == NUM


def test_the_same_arguments_give_the_same_decision(champion: Contender, challenge: Make) -> None:
    first, second = (judge(champion, challenge(better), holdout_of(), OPTIONS) for _ in range(2))
    assert canonical_json(first.to_dict()) == canonical_json(second.to_dict())
    shuffled = Contender(champion.card, champion.rows[::-1])
    assert judge(shuffled, challenge(better), holdout_of(), OPTIONS) == first


@pytest.mark.fault(36)
def test_a_worse_challenger_is_refused_with_the_numbers(champion: Contender, challenge: Make) -> None:
    decision = judge(champion, challenge(worse), holdout_of(), OPTIONS)
    assert refused_by(decision) == {"non_inferior", "brier"}
    check = checks_of(decision)["non_inferior"]
    assert check.value is not None
    assert check.value < check.limit == -0.1
    assert f"{check.value:.4g}" in check.reason
    assert "non_inferior: AUROC better by -0." in decision.reason


def test_delta_alone_can_force_either_outcome(champion: Contender, challenge: Make) -> None:
    wide = replace(OPTIONS, gate_delta=1.0, gate_brier_epsilon=1.0)
    assert judge(champion, challenge(worse), holdout_of(), wide).promote
    tight = replace(OPTIONS, gate_delta=0.0, gate_brier_epsilon=1.0)
    slightly_worse = [row._replace(logits=(0.0, -3.0)) if row.bag_id == "s012" else row for row in classified(good)]
    assert refused_by(judge(champion, challenge(slightly_worse), holdout_of(), tight)) == {"non_inferior"}
    with pytest.raises(ConfigError, match="gate_delta"):
        replace(OPTIONS, gate_delta=-0.01)


@pytest.mark.fault(36)
def test_an_equal_challenger_is_not_promoted(champion: Contender, challenge: Make) -> None:
    decision = judge(champion, challenge(good), holdout_of(), OPTIONS)
    assert refused_by(decision) == {"new_model"}
    assert "every one" in decision.reason
    itself = judge(champion, champion, holdout_of(), OPTIONS)
    assert refused_by(itself) == {"new_model"}
    assert "the champion itself" in itself.reason


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.fault(36)
def test_one_prediction_that_is_no_number_refuses(champion: Contender, challenge: Make, value: float) -> None:
    challenger = challenge(lambda index: value if index == 7 else better(index))
    decision = judge(champion, challenger, holdout_of(), OPTIONS)
    assert refused_by(decision) == {"finite", "non_inferior", "brier"}
    assert "1 of the challenger's predictions" in decision.reason
    assert [check.name for check in decision.checks] == NAMES, "all are listed"
    canonical_json(decision.to_dict())


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"encoder_identity": {"id": "other", "dim": 4}}, "same_encoder"),
        ({"tiling": {"target_mpp": 1.0}}, "same_tiling"),
        ({"task": replace(CLASSES, classes=("tumour", "normal"))}, "same_task"),
    ],
)
@pytest.mark.fault(36)
def test_another_encoder_tiling_or_task_is_refused(
    champion: Contender, challenge: Make, changes: dict[str, Any], check: str
) -> None:
    assert check in refused_by(judge(champion, challenge(better, **changes), holdout_of(), OPTIONS))


@pytest.mark.fault(36)
def test_a_holdout_patient_in_training_is_refused_and_not_named(champion: Contender, challenge: Make) -> None:
    def of(patients: list[str], sources: list[SourceIdentity]) -> TrainedOn:
        return TrainedOn.of(
            cohort="c", feature_set="f", manifest_version=1, manifest_sha256="m", patients=patients, sources=sources
        )

    for leaked in (of(["p003", "p099"], []), of([], [SourceIdentity(10, "s003")])):
        decision = judge(champion, challenge(better, trained_on=leaked), holdout_of(), OPTIONS)
        assert refused_by(decision) == {"holdout_unseen"}
        assert "p003" not in decision.reason
        assert checks_of(decision)["holdout_unseen"].value == 1


def test_a_holdout_that_changed_is_refused_with_what_changed(champion: Contender, challenge: Make) -> None:
    changed = ("s001: label 'a' became 'b'", *(f"s{index:03} is no longer in the table" for index in range(2, 20)))
    decision = judge(champion, challenge(better), holdout_of(), OPTIONS, holdout_changes=changed)
    assert refused_by(decision) == {"holdout_unchanged"}
    assert "s001: label 'a' became 'b'" in decision.reason
    assert "and 9 more" in decision.reason


def test_only_declared_changes_pass(champion: Contender, challenge: Make) -> None:
    recipe = champion.card.recipe | {"fit": champion.card.recipe["fit"] | {"epochs": 40, "learning_rate": 1e-3}}
    decision = judge(champion, challenge(better, recipe=recipe), holdout_of(), OPTIONS)
    assert refused_by(decision) == {"declared_changes"}
    assert "learning_rate (0.0002 → 0.001)" in decision.reason
    assert "epochs" not in decision.reason
    declared = replace(OPTIONS, may_change=("learning_rate", *OPTIONS.may_change))
    assert judge(champion, challenge(better, recipe=recipe), holdout_of(), declared).promote
    nothing = replace(OPTIONS, may_change=())
    assert "epochs (20 → 40)" in judge(champion, challenge(better, recipe=recipe), holdout_of(), nothing).reason


def test_a_model_that_was_rolled_back_does_not_come_back_by_itself(champion: Contender, challenge: Make) -> None:
    challenger = challenge(better)
    decision = judge(champion, challenger, holdout_of(), OPTIONS, withdrawn={challenger.card.version})
    assert refused_by(decision) == {"not_withdrawn"}


def test_every_never_miss_slide_must_be_right_at_the_threshold(champion: Contender, challenge: Make) -> None:
    options = replace(OPTIONS, never_miss=("s000", "s001"))
    assert judge(champion, challenge(better), holdout_of(), options).promote
    # 0.45 is not the most probable class, and lies above the threshold 0.4 of the card
    at_threshold = challenge(lambda index: 0.45 if index == 0 else better(index))
    assert checks_of(judge(champion, at_threshold, holdout_of(), options))["never_miss"].passed
    missed = challenge(lambda index: 0.35 if index == 0 else better(index))
    decision = judge(champion, missed, holdout_of(), options)
    assert refused_by(decision) == {"never_miss"}
    assert "1 of 2 right; wrong: s000" in decision.reason


def test_a_never_miss_slide_outside_the_holdout_needs_a_prediction(champion: Contender, challenge: Make) -> None:
    options = replace(OPTIONS, never_miss=("elsewhere",))
    decision = judge(champion, challenge(better), holdout_of(), options)
    assert refused_by(decision) == {"never_miss"}
    assert "not predicted, or without a label: elsewhere" in decision.reason
    elsewhere = row(0, ClassTarget(1), (0.0, 2.0))._replace(bag_id="elsewhere")
    assert judge(champion, challenge(better), holdout_of(), options, never_miss_rows=[elsewhere]).promote


def test_bags_that_are_not_the_holdouts_are_refused(champion: Contender, challenge: Make) -> None:
    rows = classified(better)
    for wrong in (rows[1:], [*rows, rows[0]], [*rows[1:], rows[0]._replace(bag_id="stranger")]):
        decision = judge(champion, challenge(wrong), holdout_of(), OPTIONS)
        assert refused_by(decision) == {"holdout_predicted", "non_inferior", "brier"}
    other_target = [rows[0]._replace(target=ClassTarget(0)), *rows[1:]]
    assert "holdout_predicted" in refused_by(judge(champion, challenge(other_target), holdout_of(), OPTIONS))
    lazy = Contender(champion.card, champion.rows[:-1])
    assert "holdout_predicted" in refused_by(judge(lazy, challenge(better), holdout_of(), OPTIONS))


def test_a_site_where_the_challenger_is_worse_refuses_though_it_is_better_overall(made: Make, challenge: Make) -> None:
    def site(index: int) -> str:
        return "east" if index < 12 else "west"

    def before(index: int) -> float:
        return better(index) if index < 12 else worse(index)

    def after(index: int) -> float:
        return worse(index) if index < 12 else better(index)

    champion = Contender(made(b"champion").card, classified(before, site))
    decision = judge(champion, challenge(classified(after, site)), holdout_of(), OPTIONS)
    assert decision.figures["gain"]["value"] > 0
    assert "non_inferior/east" in refused_by(decision)
    assert checks_of(decision)["non_inferior/west"].passed
    wide = replace(OPTIONS, gate_site_delta=1.0)
    assert judge(champion, challenge(classified(after, site)), holdout_of(), wide).promote
    assert decision.figures["sites"]["east"]["num_patients"] == 12


def test_a_site_too_small_or_of_one_class_is_listed_and_not_judged(made: Make, challenge: Make) -> None:
    def site(index: int) -> str | None:
        return "small" if index < 5 else "negative" if not is_tumour(index) else "west"

    options = replace(OPTIONS, gate_site_patients=8)
    champion = Contender(made(b"champion").card, classified(good, site))
    decision = judge(champion, challenge(classified(better, site)), holdout_of(), options)
    checks = checks_of(decision)
    assert checks["non_inferior/small"].passed is None
    assert "5 holdout patients, and 8 are needed" in checks["non_inferior/small"].reason
    assert checks["non_inferior/negative"].passed is None
    assert "AUROC has no value here" in checks["non_inferior/negative"].reason
    assert decision.promote, "what cannot be judged refuses nothing"


def test_one_site_of_all_slides_is_no_site_of_its_own(made: Make, challenge: Make) -> None:
    champion = Contender(made(b"champion").card, classified(good, lambda _: "here"))
    decision = judge(champion, challenge(classified(better, lambda _: "here")), holdout_of(), OPTIONS)
    assert [check.name for check in decision.checks] == NAMES


def test_a_metric_without_a_value_on_the_whole_holdout_refuses(made: Make, challenge: Make) -> None:
    def one_class(probability: Callable[[int], float]) -> list[HeldOut]:
        return [row._replace(target=ClassTarget(0)) for row in classified(probability)]

    champion = Contender(made(b"champion").card, one_class(good))
    decision = judge(champion, challenge(one_class(better)), holdout_of(), OPTIONS)
    assert "non_inferior" in refused_by(decision)
    assert "AUROC has no value here: all 40 slides are of class 0" in decision.reason
    first = judge(None, challenge(one_class(better)), holdout_of(), OPTIONS)
    assert refused_by(first) == {"floor"}


def test_a_first_model_must_reach_the_floor_and_nothing_is_compared(challenge: Make) -> None:
    decision = judge(None, challenge(better), holdout_of(), OPTIONS)
    assert decision.promote
    names = [check.name for check in decision.checks]
    assert names == [*NAMES[5:10], "floor", "never_miss"]
    assert checks_of(decision)["floor"][2:4] == (1.0, 0.7)
    assert "champion" not in decision.figures
    assert refused_by(judge(None, challenge(worse), holdout_of(), OPTIONS)) == {"floor"}
    broken = challenge(lambda index: math.nan)
    assert refused_by(judge(None, broken, holdout_of(), OPTIONS)) == {"finite", "floor"}


def test_patients_are_drawn_whole(made: Make, challenge: Make) -> None:
    """Ten slides of each patient say no more than one does: the interval must not shrink."""

    def wide(rows: list[HeldOut], times: int) -> list[HeldOut]:
        return [row._replace(bag_id=f"{row.bag_id}-{copy}") for row in rows for copy in range(times)]

    def holdout(times: int) -> Holdout:
        slides = holdout_of().slides
        many = tuple(
            replace(slide, slide_id=SlideId(f"{slide.slide_id}-{copy}")) for slide in slides for copy in range(times)
        )
        return replace(holdout_of(), slides=many)

    gains = []
    for times in (1, 10):
        champion = Contender(made(b"champion").card, wide(classified(good), times))
        decision = judge(champion, challenge(wide(classified(better), times)), holdout(times), OPTIONS)
        gains.append(decision.figures["gain"])
    assert gains[1]["low"] == pytest.approx(gains[0]["low"])
    assert gains[1]["high"] == pytest.approx(gains[0]["high"])


@pytest.mark.parametrize(
    ("task", "target", "better_logit", "metric"),
    [
        (Task(kind=TaskKind.survival, time_bins=2), lambda i: SurvivalTarget(float(i), i % 4 > 0), 1, "harrell_c"),
        (Task(kind=TaskKind.regression), lambda i: ValueTarget(float(-i)), 1, "rmse"),
    ],
    ids=["survival", "regression"],
)
def test_other_tasks_are_judged_by_their_own_metric(
    made: Make, task: Task, target: Callable[[int], Target], better_logit: int, metric: str
) -> None:
    def rows(noise: float) -> list[HeldOut]:
        width = task.num_outputs
        return [row(i, target(i), (-float(i) + noise * (i * 7 % 11),) * width) for i in range(NUM)]

    def contender(weights: bytes, noise: float) -> Contender:
        card = replace(made(weights).card, task=task)
        members = tuple(replace(member, threshold=None, temperature=None) for member in card.members)
        return Contender(replace(card, members=members), rows(noise))

    poor, fine = contender(b"poor", 3.0), contender(b"fine", 0.1)
    options = replace(OPTIONS, gate_delta=0.05)
    up, down = (judge(*pair, holdout_of(task), options) for pair in ((poor, fine), (fine, poor)))
    assert up.promote
    assert up.figures["metric"] == metric
    assert up.figures["gain"]["value"] > 0
    assert checks_of(up)["brier"].passed is None
    assert refused_by(down) == {"non_inferior"}
    assert down.figures["gain"]["value"] == pytest.approx(-up.figures["gain"]["value"])
    listed = replace(options, never_miss=("s000",))
    assert refused_by(judge(poor, fine, holdout_of(task), listed)) == {"never_miss"}


def test_a_metric_of_another_task_is_refused_by_name(champion: Contender, challenge: Make) -> None:
    for metric in ("harrell_c", "nonsense"):
        with pytest.raises(InputError, match=f"gate_metric={metric} is none of a classification: auroc"):
            judge(champion, challenge(better), holdout_of(), replace(OPTIONS, gate_metric=metric))
    by_brier = replace(OPTIONS, gate_metric="brier", gate_delta=0.02)
    assert judge(champion, challenge(better), holdout_of(), by_brier).promote
    assert "non_inferior" in refused_by(judge(champion, challenge(worse), holdout_of(), by_brier))


@pytest.mark.parametrize(
    "values",
    [
        {"gate_delta": math.nan},
        {"gate_site_delta": -0.1},
        {"gate_brier_epsilon": -1.0},
        {"gate_floor": -0.1},
        {"gate_replicates": 99},
        {"gate_level": 1.0},
        {"gate_site_patients": 0},
    ],
)
def test_options_out_of_range_are_refused_by_name(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        GateOptions(**values)


def test_every_file_of_the_folder_registers_one_check() -> None:
    modules = [check.__module__.rpartition(".")[2] for subject in checks.Subject for check in checks.checks_of(subject)]
    files = [path.stem for path in Path(gate_checks.__path__[0]).glob("[!_]*.py")]
    assert sorted(modules) == sorted(files)


def test_the_file_that_contributing_shows_is_a_check(
    champion: Contender, challenge: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = PAGE.read_text(encoding="utf-8").partition("\n## Adding a gate check\n")[2].partition("\n## ")[0]
    example = re.search(r"```python\n# mhim_core/registry/gate_checks/(\w+)\.py\n(.*?)```", section, re.DOTALL)
    assert example is not None
    (tmp_path / f"{example.group(1)}.py").write_text(example.group(2))
    monkeypatch.setattr(gate_checks, "__path__", [*gate_checks.__path__, str(tmp_path)])
    monkeypatch.setattr(checks, "_registered", functools.cache(checks._registered.__wrapped__))
    challenger = challenge(better)

    def decide() -> tuple[GateDecision, Check]:
        decision = judge(champion, challenger, holdout_of(), OPTIONS)
        return decision, decision.checks[-1]

    decision, check = decide()
    assert (check.name, check.passed, check.value) == ("holdout_size", True, NUM)
    assert decision.promote
    module = sys.modules[f"{gate_checks.__name__}.{example.group(1)}"]
    monkeypatch.setattr(module, "MIN_PATIENTS", NUM + 1)
    decision, check = decide()
    assert (check.passed, check.limit) == (False, NUM + 1)
    assert not decision.promote
    assert judge(None, challenger, holdout_of(), OPTIONS).failed == (check,)

    (tmp_path / "copied.py").write_text(example.group(2).replace('"holdout_size"', '"copied"'))
    monkeypatch.setattr(checks, "_registered", functools.cache(checks._registered.__wrapped__))
    with pytest.raises(AssertionError, match="one order"):
        judge(champion, challenger, holdout_of(), OPTIONS)
