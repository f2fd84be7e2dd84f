"""The method's numbers, kept in the tree: what moves them by more than rounding changes the results of every user."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from mhim_core.mil.model_options import AGGREGATOR_NAMES, MINING_AGGREGATORS
from mhim_core.train.arithmetic import fixed_arithmetic
from mhim_core.train.plan import Stage


def load_pinned_run() -> ModuleType:
    """The script beside this file, which a machine without pytest runs by itself."""
    spec = importlib.util.spec_from_file_location("pinned_run", Path(__file__).with_name("pinned_run.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


pinned = load_pinned_run()
PINS = pinned.read_pins()


@pytest.fixture
def two_threads() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(num_threads)


@pytest.mark.parametrize(("aggregator", "stage"), pinned.RUNS)
def test_twenty_steps_give_the_pinned_losses_weights_and_attention(
    aggregator: str, stage: Stage, device: torch.device
) -> None:
    pin = PINS[f"{aggregator}/{stage}"]
    assert len(pin.task_loss) == 20
    with fixed_arithmetic(device):
        run = pinned.pinned_run(aggregator, stage, device)
    assert pinned.deviation(run, pin) <= pinned.TOLERANCE


@pytest.mark.thorough
def test_the_pinned_numbers_hold_for_any_number_of_threads(two_threads: None) -> None:
    run = pinned.pinned_run("transmil", Stage.mhim)
    assert pinned.deviation(run, PINS["transmil/mhim"]) <= pinned.TOLERANCE


def test_every_aggregator_is_pinned_plain_and_every_mining_one_mined() -> None:
    expected = {f"{name}/plain" for name in AGGREGATOR_NAMES} | {f"{name}/mhim" for name in MINING_AGGREGATORS}
    assert PINS.keys() == expected
    consistency = {name: sum(map(sum, pin.consistency_loss)) for name, pin in PINS.items()}
    assert {name for name, total in consistency.items() if total > 0} == {f"{name}/mhim" for name in MINING_AGGREGATORS}


@pytest.mark.parametrize("field", ["task_loss", "consistency_loss", "norms", "logits", "attention"])
def test_a_pinned_number_that_moves_is_seen_whichever_it_is(field: str) -> None:
    pin = PINS["dsmil/mhim"]
    value = getattr(pin, field)
    if field == "norms":
        moved = value | {"student/embed.weight": value["student/embed.weight"] * (1 + 1e-8)}
    elif isinstance(value[0], list):
        moved = [[value[0][0] + 1e-7, *value[0][1:]], *value[1:]]
    else:
        moved = [value[0] + 1e-8, *value[1:]]
    assert pinned.deviation(pin, pin) == 0
    assert pinned.deviation(pin._replace(**{field: moved}), pin) > pinned.TOLERANCE
    assert pinned.deviation(pin._replace(norms={}), pin) > pinned.TOLERANCE
