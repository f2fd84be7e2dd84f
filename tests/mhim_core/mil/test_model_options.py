"""What a user may set, and what is refused."""

import subprocess
import sys
from enum import StrEnum

import pytest

from mhim_core.errors import ConfigError
from mhim_core.mil import model_options as module
from mhim_core.mil.model_options import AGGREGATOR_NAMES, MINING_AGGREGATORS, MhimOptions, ModelOptions, RecycleAtTest


@pytest.mark.parametrize(
    "wrong",
    [
        {"high_mask_ratio": -0.1},
        {"high_mask_ratio": 1.5},
        {"high_mask_subsample": 0.0},
        {"random_mask_ratio": 1.0},
        {"random_mask_ratio": float("nan")},
        {"recycle_queries": 0},
        {"temperature": 0.0},
        {"consistency_weight": -1.0},
        {"ema_momentum": "fast"},
        {"ema_momentum": "1.2"},
        {"ema_momentum": "nan"},
    ],
)
def test_senseless_values_are_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        MhimOptions(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        {"aggregator": "os.system"},
        {"embed_dim": 0},
        {"dropout": 1.0},
        {"transmil_dropout": -0.1},
        {"clam_instance_weight": 1.0},
        {"clam_num_sampled": 0},
        {"embed_dim": 20, "aggregator": "transmil"},
    ],
)
def test_senseless_models_are_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        ModelOptions(**wrong)  # type: ignore[arg-type]


def test_mining_refuses_aggregators_that_do_not_weigh_single_instances() -> None:
    for name in MINING_AGGREGATORS:
        ModelOptions(aggregator=name).require_mining()
    others = set(AGGREGATOR_NAMES) - set(MINING_AGGREGATORS)
    assert others == {"mean", "max"}
    for name in others:
        with pytest.raises(ConfigError, match=f"method=mhim needs .*{name}.*method=plain"):
            ModelOptions(aggregator=name).require_mining()


def test_members_of_an_enum_are_named_as_they_are_typed() -> None:
    enums = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, StrEnum)]
    enums.remove(StrEnum)
    assert len(enums) == 7
    assert all(member.name == member.value for enum in enums for member in enum)


@pytest.mark.parametrize(
    ("ratio", "choice", "expected"),
    [(0.1, "auto", False), (0.5, "auto", True), (0.1, "on", True), (0.9, "off", False), (0.0, "auto", False)],
)
def test_recycling_at_test_is_on_where_it_should_be(ratio: float, choice: str, expected: bool) -> None:
    options = MhimOptions(random_mask_ratio=ratio, recycle_at_test=RecycleAtTest(choice))
    assert options.recycles_at_test is expected


def test_recycled_tokens_cannot_be_asked_for_where_nothing_is_recycled() -> None:
    with pytest.raises(ConfigError, match="random_mask_ratio=0 disables them"):
        MhimOptions(random_mask_ratio=0.0, recycle_at_test=RecycleAtTest.on)


def test_reading_the_options_imports_nothing_heavy() -> None:
    code = (
        "import sys, mhim_core.mil.model_options, mhim_core.train.fit_options, mhim_core.train.plan;"
        "assert not {'torch', 'numpy', 'pyarrow', 'sklearn'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
