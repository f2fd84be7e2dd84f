"""Which tissue finder and which runtime of its encoder a store goes on with."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from flows.config.keys import EncoderKeys, EncoderRuntime
from flows.runs.tiling import feature_set_of, settled_card, settled_spec
from mhim_core.embed.efficientnet_lite0 import PACKAGE
from mhim_core.embed.registry import encoder_card
from mhim_core.errors import EncoderError
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


needs_weights = pytest.mark.skipif(find_spec(PACKAGE) is None, reason="the extra `encoders` is not installed")
EFFICIENTNET = "efficientnet-lite0"
TORCH, OPENVINO = "torch", "openvino-cpu"


def made_by(tmp_path: Path, *runtimes: str, **spec: object) -> LocalStorage:
    storage = LocalStorage(tmp_path / "store")
    for runtime in runtimes:
        register(storage, feature_set_of(TileSpec(**spec), encoder_card(EFFICIENTNET, runtime=runtime)))  # type: ignore[arg-type]
    return storage


def settled(storage: LocalStorage, runtime: str = "auto", encoder: str = EFFICIENTNET, *, on_gpu: bool = False) -> str:
    keys = EncoderKeys(encoder=encoder, encoder_runtime=EncoderRuntime(runtime))
    return settled_card(keys, TileSpec(), storage, on_gpu=on_gpu).runtime


@needs_weights
@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.parametrize(
    ("runtimes", "chosen"),
    [
        ((), None),
        (("torch",), TORCH),
        (("openvino",), OPENVINO),
        (("torch", "openvino"), TORCH),
        (("openvino_bf16",), None),
    ],
)
def test_an_open_runtime_is_the_one_that_the_store_was_begun_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtimes: tuple[str, ...], chosen: str | None, installed: bool
) -> None:
    monkeypatch.setattr("flows.runs.tiling.openvino_is_installed", lambda: installed)
    expected = chosen or (OPENVINO if installed else TORCH)
    assert settled(made_by(tmp_path, *runtimes)) == expected


@needs_weights
def test_a_store_of_version_0_1_goes_on_with_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.runs.tiling.openvino_is_installed", lambda: True)
    assert settled(made_by(tmp_path, "torch", tissue=TissueMethod.otsu)) == TORCH
    assert settled(made_by(tmp_path / "coarser", "torch", target_mpp=1.0)) == OPENVINO


@needs_weights
def test_a_gpu_and_an_encoder_that_is_no_network_are_torchs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.runs.tiling.openvino_is_installed", lambda: True)
    storage = made_by(tmp_path)
    assert settled(storage, on_gpu=True) == "torch-cuda"
    assert settled(storage, encoder="hed-texture") == TORCH
    with pytest.raises(EncoderError, match="not known on cuda"):
        settled(storage, "openvino", on_gpu=True)


@needs_weights
def test_a_stated_runtime_wins(tmp_path: Path) -> None:
    storage = made_by(tmp_path, "torch", "openvino")
    assert settled(storage, "openvino") == settled(storage, "openvino_bf16") == OPENVINO
    assert settled(storage, "torch") == TORCH
