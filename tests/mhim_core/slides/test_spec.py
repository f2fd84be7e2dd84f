import json

import pytest

from mhim_core.errors import ConfigError
from mhim_core.fingerprint import fingerprint
from mhim_core.slides.spec import SlidePolicy, TileSpec, tiling_identity


@pytest.mark.parametrize(
    "wrong",
    [
        {"target_mpp": 0},
        {"target_mpp": float("nan")},
        {"target_mpp": 25.0},
        {"tile_px": 8},
        {"tile_px": 65_536},
        {"overlap_px": 256},
        {"overlap_px": -1},
        {"min_tissue": 1.5},
        {"min_tissue": float("nan")},
    ],
)
def test_a_wrong_tile_spec_is_a_config_error_naming_its_key(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        TileSpec(**wrong)


@pytest.mark.parametrize("wrong", [{"max_upsample": 0.9}, {"max_upsample": float("inf")}, {"default_mpp": 0.0}])
def test_a_wrong_policy_is_a_config_error_naming_its_key(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SlidePolicy(**wrong)


def test_every_field_of_the_tile_spec_changes_the_identity() -> None:
    specs = [
        TileSpec(),
        TileSpec(target_mpp=1.0),
        TileSpec(tile_px=224),
        TileSpec(overlap_px=32),
        TileSpec(min_tissue=0.5),
    ]
    assert len({fingerprint(tiling_identity(spec)) for spec in specs}) == len(specs)


def test_the_identity_is_plain_json() -> None:
    identity = tiling_identity(TileSpec())
    assert json.loads(json.dumps(identity)) == identity
