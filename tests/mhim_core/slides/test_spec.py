import json

import pytest

from mhim_core.errors import ConfigError, InputError, IntegrityError
from mhim_core.fingerprint import fingerprint
from mhim_core.slides.registry import BACKEND_VERSIONS
from mhim_core.slides.spec import SlidePolicy, TileSpec, TissueMethod, stored_spec, tiling_identity


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
        {"min_sharpness": -1},
        {"min_sharpness": float("inf")},
        {"max_pen": 1.5},
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
        TileSpec(tissue=TissueMethod.otsu),
        TileSpec(keep_fat=False),
        TileSpec(keep_pen=True),
        TileSpec(backend="plain"),
        TileSpec(quality=True),
        TileSpec(min_sharpness=50),
        TileSpec(max_pen=0.5),
    ]
    assert len({fingerprint(tiling_identity(spec)) for spec in specs}) == len(specs)


def test_the_identity_is_plain_json() -> None:
    identity = tiling_identity(TileSpec())
    assert json.loads(json.dumps(identity)) == identity


def test_the_tiling_of_version_0_1_keeps_its_fingerprint() -> None:
    """Every store of 0.1 hangs on these digits."""
    by_otsu = TileSpec(tissue=TissueMethod.otsu)
    assert fingerprint(tiling_identity(by_otsu)) == "8a4188948c177d724cf1e055297a7b09c056f0f30c6065f6cafbe48d1dba0a5e"


@pytest.mark.parametrize(
    "spec",
    [
        TileSpec(tissue=TissueMethod.otsu, target_mpp=1.0),
        TileSpec(tissue=TissueMethod.glass, keep_fat=False),
        TileSpec(tissue=TissueMethod.glass, keep_pen=True, backend="plain"),
        TileSpec(tissue=TissueMethod.glass, quality=True, min_sharpness=50.5, max_pen=0.5),
    ],
)
def test_a_recorded_tiling_gives_its_spec_back(spec: TileSpec) -> None:
    assert stored_spec(json.loads(json.dumps(tiling_identity(spec))), "the slides") == spec


def test_a_tiling_by_other_constants_is_refused() -> None:
    tiling = tiling_identity(TileSpec())
    with pytest.raises(InputError, match="version"):
        stored_spec(tiling | {"tissue": tiling["tissue"] | {"min_saturation": 0.04}}, "the slides")
    with pytest.raises(IntegrityError):
        stored_spec({"target_mpp": 0.5}, "the slides")


def test_otsu_refuses_what_it_does_not_know() -> None:
    for wrong in ({"keep_fat": False}, {"keep_pen": True}):
        with pytest.raises(ConfigError, match="otsu"):
            TileSpec(tissue=TissueMethod.otsu, **wrong)


def test_a_backend_is_in_the_identity_by_name_and_version_where_its_pixels_are_not_those_of_0_1(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for spec in (TileSpec(), TileSpec(backend="openslide")):
        assert "backend" not in tiling_identity(spec)
    assert tiling_identity(TileSpec(backend="plain"))["backend"] == {"name": "plain", "version": 1}
    monkeypatch.setitem(BACKEND_VERSIONS, "plain", 2)  # pixels that auto reads as well
    for spec in (TileSpec(), TileSpec(backend="openslide")):
        assert tiling_identity(spec)["backend"] == {"name": "auto", "versions": {"plain": 2}}
    assert stored_spec(tiling_identity(TileSpec()), "the slides") == TileSpec(tissue=TissueMethod.glass)


def test_an_unknown_backend_is_a_config_error_with_the_choices() -> None:
    with pytest.raises(ConfigError, match=r"auto.*openslide.*plain"):
        TileSpec(backend="gdal")
