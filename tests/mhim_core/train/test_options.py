"""What a user may set about a fit."""

import pytest

from mhim_core.errors import ConfigError
from mhim_core.train.fit_options import FitExecution, FitOptions


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"global_batch": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"learning_rate": 1e-8},
        {"weight_decay": -1.0},
        {"patience": -1},
    ],
)
def test_senseless_values_are_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        FitOptions(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        {"checkpoint_every": -1},
        {"checkpoint_every_steps": -1},
        {"checkpoint_every_min": float("inf")},
        {"drift_every": -1},
    ],
)
def test_a_negative_or_endless_interval_is_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"^{next(iter(wrong))}="):
        FitExecution(**wrong)  # type: ignore[arg-type]
