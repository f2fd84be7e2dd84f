"""Which tissue finder a store goes on with."""

from pathlib import Path

import pytest

from flows.runs.tiling import feature_set_of, settled_spec
from mhim_core.embed.registry import encoder_card
from mhim_core.slides.spec import TileSpec, TissueMethod
from mhim_core.storage import LocalStorage
from mhim_core.store.feature_sets import register

CARD = encoder_card("hed-texture")


def begun(tmp_path: Path, *methods: str, target_mpp: float = 0.5) -> LocalStorage:
    storage = LocalStorage(tmp_path / "store")
    for method in methods:
        register(storage, feature_set_of(TileSpec(tissue=TissueMethod(method), target_mpp=target_mpp), CARD))
    return storage


@pytest.mark.parametrize(
    ("methods", "chosen"),
    [((), "glass"), (("otsu",), "otsu"), (("glass",), "glass"), (("otsu", "glass"), "glass")],
)
def test_an_open_choice_goes_on_with_what_the_store_was_begun_with(
    tmp_path: Path, methods: tuple[str, ...], chosen: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert settled_spec(TileSpec(), CARD, begun(tmp_path, *methods)).tissue.value == chosen
    assert ("tissue=otsu" in capsys.readouterr().out) == (chosen == "otsu")


def test_a_store_of_other_tiles_decides_nothing(tmp_path: Path) -> None:
    assert settled_spec(TileSpec(), CARD, begun(tmp_path, "otsu", target_mpp=1.0)).tissue is TissueMethod.glass


@pytest.mark.parametrize("method", ["glass", "otsu"])
def test_a_stated_choice_wins(tmp_path: Path, method: str) -> None:
    for begun_with in ("glass", "otsu"):
        spec = TileSpec(tissue=TissueMethod(method))
        assert settled_spec(spec, CARD, begun(tmp_path, begun_with)) == spec
