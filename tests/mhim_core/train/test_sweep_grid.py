"""The configurations of a sweep and their names."""

import pytest

from mhim_core.errors import ConfigError
from mhim_core.mil.model_options import Score
from mhim_core.train.sweep_grid import AS_GIVEN, MAX_CONFIGURATIONS, configuration_name, expand_grid


def test_the_last_key_changes_fastest() -> None:
    settings = expand_grid({"a": (1, 2), "b": ("x", "y", "z")})
    assert [tuple(setting.values()) for setting in settings] == [
        *((1, "x"), (1, "y"), (1, "z")),
        *((2, "x"), (2, "y"), (2, "z")),
    ]
    assert expand_grid({}) == ({},)


@pytest.mark.parametrize(
    "values", [(0.1, 0.10), (1, 1), (None, None), (True, True), ("0.999", ".999"), ("auto", "auto")]
)
def test_a_value_that_is_there_twice_is_refused_however_it_is_written(values: tuple[object, ...]) -> None:
    with pytest.raises(ConfigError, match="twice"):
        expand_grid({"key": values})  # type: ignore[dict-item]


def test_values_that_look_alike_and_differ_are_kept() -> None:
    assert len(expand_grid({"key": (1, True, None, "none ", "1x")})) == 5


@pytest.mark.parametrize("axes", [{"a": ()}, {"a": range(200), "b": range(200)}])
def test_an_empty_axis_and_an_endless_grid_are_refused(axes: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(ConfigError, match=f"no value|{MAX_CONFIGURATIONS:,}"):
        expand_grid(axes)


def test_a_name_says_the_setting_as_one_types_it_or_is_a_digest_where_no_folder_could_be_called_so() -> None:
    setting = {
        "high_mask_ratio": 0.03,
        "dropout": 0.0,
        "gated": True,
        "score": Score.softmax_max,
        "patience": None,
        "epochs": 7,
    }
    assert (
        configuration_name(setting)
        == "high_mask_ratio=0.03+dropout=0+gated=true+score=softmax_max+patience=none+epochs=7"
    )
    assert configuration_name({}) == AS_GIVEN
    odd = [configuration_name({"aggregator": name}) for name in ("mine/too", "ours é", "x" * 200)]
    assert all(name.startswith("configuration-") for name in odd)
    assert len(set(odd)) == 3
