"""Finished fits across versions: an option that a later version adds is no difference until it is used."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mhim_core.errors import ConflictError, InputError, IntegrityError
from mhim_core.fingerprint import NEUTRAL, canonical_json
from mhim_core.storage import LocalStorage
from mhim_core.train.card import load_card
from mhim_core.train.context import SingleProcess
from mhim_core.train.events import FitEvent, FitEventKind
from mhim_core.train.loop import run_fits
from mhim_core.train.plan import TrainPlan
from mhim_core.train.results import (
    FitResult,
    adopt,
    fit_identity,
    initial_differences,
    read_model,
    read_result,
    result_key,
)

PlanOf = Callable[..., TrainPlan]


def later(example: Any, added: float) -> Any:
    """The same of a later version, whose class has one field more."""
    field = dataclasses.field(default=0.5, metadata={NEUTRAL: 0.0})
    kind = dataclasses.make_dataclass(
        f"Later{type(example).__name__}", [("added", float, field)], bases=(type(example),), frozen=True, kw_only=True
    )
    return kind(**vars(example), added=added)


def later_plan(plan: TrainPlan, added: float) -> TrainPlan:
    names = ("model", "mhim", "fit", "task")
    return dataclasses.replace(plan, **{name: later(getattr(plan, name), added) for name in names})


@pytest.fixture
def run(plan_of: PlanOf, bags: Any, tmp_path: Path) -> Callable[[TrainPlan], list[FitEvent]]:
    """run(plan): the events of running it in the one folder of the test."""

    def start(plan: TrainPlan) -> list[FitEvent]:
        events: list[FitEvent] = []
        run_fits(plan, bags, LocalStorage(tmp_path), SingleProcess(), events.append)
        return events

    return start


def test_finished_fits_are_adopted_until_a_later_option_is_used(
    plan_of: PlanOf, run: Callable[[TrainPlan], list[FitEvent]]
) -> None:
    plan = plan_of(epochs=1)
    run(plan)
    assert FitEventKind.epoch not in {event.kind for event in run(later_plan(plan, 0.0))}
    with pytest.raises(ConflictError, match="another configuration"):
        run(later_plan(plan, 0.5))


def test_a_teacher_of_an_older_version_teaches_until_a_later_option_is_used(
    plan_of: PlanOf, run: Callable[[TrainPlan], list[FitEvent]], tmp_path: Path
) -> None:
    plan = plan_of(epochs=1)
    run(plan)
    teacher, student = plan.fits
    storage = LocalStorage(tmp_path)
    first = read_result(storage, student.name)
    storage.delete(result_key(student.name))
    run(later_plan(plan, 0.0))
    assert read_result(storage, student.name) == first, "the same student, to the byte"
    storage.delete(result_key(student.name))
    changed = dataclasses.replace(plan, fits=(student,), model=later(plan.model, 0.5))
    with pytest.raises(InputError, match=f"{teacher.name} does not match; model options"):
        run(changed)


def test_a_warm_start_compares_what_is_stated_alone(
    plan_of: PlanOf, run: Callable[[TrainPlan], list[FitEvent]], tmp_path: Path
) -> None:
    plan = plan_of(epochs=1)
    run(plan)
    storage = LocalStorage(tmp_path)
    result = adopt(storage, plan.fits[0].name, fit_identity(plan, plan.fits[0], None))
    assert result is not None
    card = load_card(read_model(storage, result))

    def differences(added: float) -> list[str]:
        return initial_differences(card, plan.d_in, later(plan.task, added), later(plan.model, added), plan.provenance)

    assert differences(0.0) == []
    assert [phrase.partition(":")[0] for phrase in differences(0.5)] == ["task", "model options"]


def test_a_result_of_a_newer_version_is_refused_by_the_field_that_it_uses(
    plan_of: PlanOf, run: Callable[[TrainPlan], list[FitEvent]], tmp_path: Path
) -> None:
    plan = plan_of(epochs=1)
    run(plan)
    data = LocalStorage(tmp_path).get(result_key(plan.fits[0].name))
    with pytest.raises(IntegrityError, match=r"the place.*averaged=3"):
        FitResult.from_bytes(canonical_json(json.loads(data) | {"averaged": 3}), "the place")


def test_results_and_cards_are_read_without_torch() -> None:
    program = "import sys; import mhim_core.train.results; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
