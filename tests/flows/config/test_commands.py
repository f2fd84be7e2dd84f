"""Every key is documented, bounded and refused by name; a config is valid from the moment it exists."""

import dataclasses
import importlib
from collections.abc import Callable
from enum import Enum
from typing import Any

import pytest

from flows.commands import FLOWS, config_class
from flows.config.commands import (
    CheckConfig,
    DemoConfig,
    EmbedConfig,
    EvaluateConfig,
    PredictConfig,
    ReportConfig,
    TrainConfig,
)
from flows.config.flat import Key, flat, from_keys, keys_of, with_keys
from flows.config.keys import RayKeys
from flows.config.sweep import SweepConfig
from flows.config.view import ViewConfig
from flows.config.words import parse
from mhim_core.cohort.task_options import SplitOptions
from mhim_core.errors import ConfigError
from mhim_core.mil.model_options import MhimOptions, ModelOptions
from mhim_core.outcome import reconcile
from mhim_core.slides.spec import SlidePolicy, TileSpec
from mhim_core.train.fit_options import FitExecution, FitOptions
from mhim_core.types import FailureReason, SlideId, Status, StatusRow

CONFIGS = {name: config_class(name) for name in FLOWS}
ALL_KEYS = [(name, key) for name, config in CONFIGS.items() for key in keys_of(config).values()]
UNBOUNDED = {
    "seed",  # every whole number is one
    *(
        "target_mpp",
        "tile_px",
        "overlap_px",
        "min_tissue",
    ),  # of train, sweep, view and store ls: a choice among what the store holds
}

OUT_OF_RANGE = {
    CheckConfig: {
        "target_mpp": ["0.04", "20.1", "-0.5", "0"],
        "tile_px": ["15", "4097", "0", "-256", "9999999999999999999999"],
        "overlap_px": ["-1", "256"],
        "min_tissue": ["-0.01", "1.01"],
        "max_upsample": ["0.99", "-1"],
        "default_mpp": ["0", "0.04", "21", "-1"],
        "max_failed_fraction": ["-0.1", "1.1"],
    },
    EmbedConfig: {
        "local_cpus": ["0", "-2"],
        "embed_actors": ["0"],
        "gpus_per_actor": ["-0.5"],
        "slides_per_call": ["0"],
        "encode_timeout_s": ["0.5"],
        "decode_timeout_s": ["0", "-1"],
        "slide_cache_gib": ["-0.1", "inf", "nan"],
    },
    TrainConfig: {
        "folds": ["0", "-1"],
        "val_fraction": ["0", "1", "-0.2"],
        "test_fraction": ["0", "1", "1.5"],
        "aggregator": ["transmil9", "", "ABMIL"],
        "embed_dim": ["0", "-8"],
        "dropout": ["-0.1", "1", "2"],
        "high_mask_ratio": ["-0.01", "1.01"],
        "high_mask_subsample": ["0", "1.1"],
        "random_mask_ratio": ["-0.1", "1"],
        "recycle_queries": ["0"],
        "recycle_momentum": ["-0.1", "1.1"],
        "recycle_dropout": ["-0.1", "1"],
        "temperature": ["0", "-1"],
        "consistency_weight": ["-1"],
        "ema_momentum": ["automatic", "1.1", "-0.1", "nan", ""],
        "v1_random_mask_ratio": ["-0.1", "1.1"],
        "v1_low_mask_ratio": ["-0.1", "1.1"],
        "full_view_weight": ["-0.1", "1"],
        "epochs": ["0", "-1"],
        "learning_rate": ["0", "-1e-4", "1e-8"],
        "min_learning_rate": ["-1e-9", "1"],
        "weight_decay": ["-1e-5"],
        "patience": ["-1"],
        "patience_from_epoch": ["-1"],
        "global_batch": ["0"],
        "checkpoint_every": ["-1"],
        "checkpoint_every_steps": ["-1"],
        "checkpoint_every_min": ["-1", "inf", "nan"],
        "drift_every": ["-1"],
        "workers": ["0", "2", "-1", "1-", "2-1", "0-1", "1-2", "1..2", "two", ""],
        "gpus_per_worker": ["-1"],
        "threads_per_worker": ["0"],
        "cache_gib": ["-0.1"],
        "cache_disk_gib": ["-0.1"],
        "ray_address": ["ray://head:10001", "http://head:8265", "https://head:8265", "head", "", "head:port", "LOCAL"],
    },
    SweepConfig: {"halving": ["-1", "1"], "top": ["-1"]},
    EvaluateConfig: {"bootstrap_replicates": ["-1"]},
    PredictConfig: {"max_heatmaps": ["-1"], "top_tiles": ["-1"], "tile_px": []},
    ReportConfig: {"max_heatmaps": ["-1"], "top_tiles": ["-1"]},
    ViewConfig: {
        "port": ["-1", "65536"],
        "answer_within_s": ["0", "-1", "601", "nan"],
    },
    DemoConfig: {
        "out": ["", "s3://bucket/demo"],
        "num_slides": ["27", "-1"],
        "num_new": ["1"],
        "epochs": ["0"],
        "full_view_weight": ["1"],
        "aggregator": ["transmil9"],
        "ray_address": ["ray://head:10001"],
    },
}
BAD_WORDS = [
    (kind, key, value) for kind, keys in OUT_OF_RANGE.items() for key, values in keys.items() for value in values
]


def needed(config: type) -> list[str]:
    return [key.name for key in keys_of(config).values() if key.required]


def made(config: type, **values: Any) -> Any:
    """The config itself: reading words is the business of test_words."""
    return from_keys(config, **dict.fromkeys(needed(config), "x") | values)


@pytest.mark.parametrize(("name", "key"), ALL_KEYS, ids=lambda value: value.name if isinstance(value, Key) else value)
def test_every_key_is_documented_and_of_a_kind_that_people_can_type(name: str, key: Key) -> None:
    assert key.doc.endswith(".")
    assert key.doc[0] != " "
    assert key.kind in (int, float, str, bool, tuple) or issubclass(key.kind, Enum)
    if issubclass(key.kind, Enum):  # typed by name, stored and documented by value
        assert [each.name for each in key.kind] == [each.value for each in key.kind]
    if key.optional:
        assert key.default is None
        assert "none" in key.doc or "null" in key.doc, "say what leaving it out means"


@pytest.mark.parametrize("name", CONFIGS)
def test_a_command_s_words_alone_give_the_defaults_of_its_config(name: str) -> None:
    config = CONFIGS[name]
    assert parse(config, [f"{key}=x" for key in needed(config)], command=name) == made(config)


@pytest.mark.parametrize(("name", "key"), ALL_KEYS, ids=lambda item: item.name if isinstance(item, Key) else item)
def test_every_key_says_what_it_is_to_its_command(name: str, key: Key) -> None:
    assert key.role is not None, "metadata=role(Role.…) of the field, or of the part that holds it"


@pytest.mark.parametrize("name", CONFIGS)
def test_the_parts_of_a_config_share_no_key(name: str) -> None:
    """`keys_of` refuses a name that two parts hold; and every key of every part can be set and read back."""
    config = made(CONFIGS[name])
    assert from_keys(CONFIGS[name], **flat(config)) == config
    assert list(flat(config)) == list(keys_of(CONFIGS[name]))


@pytest.mark.parametrize(
    ("config", "key", "value"), BAD_WORDS, ids=lambda value: getattr(value, "__name__", value) or "empty"
)
def test_a_value_out_of_range_is_refused_by_name_in_one_sentence(config: type, key: str, value: str) -> None:
    kind = keys_of(config)[key].kind
    with pytest.raises(ConfigError) as caught:
        made(config, **{key: kind(value)})
    message = str(caught.value)
    assert key in message
    assert "\n" not in message
    assert "traceback" not in message.lower()
    assert len(message) > len(key) + len(value) + 12, "says what to set"


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, key in ALL_KEYS if key.kind in (int, float)])
def test_every_numeric_key_has_a_lower_bound(name: str, key: Key) -> None:
    if key.name in UNBOUNDED and (name in ("train", "sweep", "store ls", "export", "view") or key.name == "seed"):
        made(CONFIGS[name], **{key.name: key.kind(-1)})
    else:
        with pytest.raises(ConfigError, match=key.name):
            made(CONFIGS[name], **{key.name: key.kind(-1)})


@pytest.mark.parametrize(
    "kind", [TileSpec, SlidePolicy, SplitOptions, ModelOptions, MhimOptions, FitOptions, FitExecution]
)
def test_numbers_that_are_none_are_refused_by_every_option_class(kind: Callable[..., Any]) -> None:
    for field in dataclasses.fields(kind):
        if isinstance(field.default, float):
            with pytest.raises(ConfigError, match=field.name):
                kind(**{field.name: float("nan")})


def test_more_workers_than_bags_in_a_step_are_refused_with_both_remedies() -> None:
    with pytest.raises(ConfigError, match=r"workers=4 is more than global_batch=2.*set workers=2, or global_batch=4"):
        made(TrainConfig, workers=4, global_batch=2)
    with pytest.raises(ConfigError, match=r"set workers=2, or global_batch=8"):
        made(TrainConfig, workers="3-8", global_batch=2)
    for words, expected in {4: (4, 4), "4": (4, 4), "1-4": (1, 4), " 2-2 ": (2, 2)}.items():
        assert made(TrainConfig, workers=words, global_batch=4).execution.num_workers() == expected


def test_a_range_of_workers_starts_where_there_is_room_for_the_fewest() -> None:
    made(TrainConfig, workers="1-64", global_batch=64).execution.check_room(RayKeys(local_cpus=1))
    with pytest.raises(ConfigError, match="workers=2-64 asks for 2 CPUs and ray_address=local has 1"):
        made(TrainConfig, workers="2-64", global_batch=64).execution.check_room(RayKeys(local_cpus=1))


@pytest.mark.parametrize("name", ["embed", "train", "predict", "demo"])
@pytest.mark.parametrize(
    ("address", "advice"),
    [
        ("ray://head:10001", r"ray_address=head:6379|ray_address=host:6379"),
        ("http://head:8265", r"mhim submit"),
        ("head", r"local, auto or host:port"),
    ],
)
def test_addresses_of_ray_that_cannot_work_are_refused_with_advice(name: str, address: str, advice: str) -> None:
    with pytest.raises(ConfigError, match=advice):
        made(CONFIGS[name], ray_address=address)


@pytest.mark.parametrize("address", ["local", "auto", "head:6379", "10.0.0.1:6379"])
def test_addresses_of_ray_that_can_work_are_taken(address: str) -> None:
    assert made(EmbedConfig, ray_address=address).ray.ray_address == address


def test_a_flat_key_reaches_the_part_that_holds_it() -> None:
    config = made(CheckConfig, tile_px=128, max_upsample=2.0)
    assert config.tiles == TileSpec(tile_px=128)
    assert config.policy == SlidePolicy(max_upsample=2)
    assert with_keys(config, tile_px=64).tiles == TileSpec(tile_px=64)
    assert with_keys(config, tile_px=64).policy == config.policy
    with pytest.raises(TypeError, match="tile_size"):
        from_keys(CheckConfig, cohort="c", tile_size=1)


def test_a_part_s_default_may_be_its_config_s_own() -> None:
    config = made(CONFIGS["retrain"], top_tiles=3)
    assert (config.page.max_heatmaps, config.page.top_tiles, config.failures.retry_failed) == (0, 3, False)
    assert keys_of(type(config))["max_heatmaps"].default == 0


@pytest.mark.parametrize(("num_failed", "code", "with_partial_ok"), [(0, 0, 0), (1, 3, 0), (2, 4, 4)])
def test_partial_ok_takes_some_failed_slides_for_a_success_and_too_many_for_none(
    num_failed: int, code: int, with_partial_ok: int
) -> None:
    ids = [SlideId(f"s{number}") for number in range(10)]
    reason = FailureReason.OPEN
    rows = [StatusRow(slide_id, Status.OK) for slide_id in ids[num_failed:]]
    outcome = reconcile(ids, rows + [StatusRow(slide_id, Status.FAILED, reason) for slide_id in ids[:num_failed]])
    for config in (EmbedConfig, CheckConfig, PredictConfig):
        assert made(config).failures.exit_code_of(outcome) == code
        assert made(config, partial_ok=True).failures.exit_code_of(outcome) == with_partial_ok


def test_configs_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        made(EvaluateConfig).run = "other"


def test_every_command_has_a_module_with_a_function_that_takes_its_config() -> None:
    for name, flow in FLOWS.items():
        run = getattr(importlib.import_module(f"flows.{flow.module}"), flow.function)
        assert run.__annotations__["config"] is CONFIGS[name]
