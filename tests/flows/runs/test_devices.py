"""gpus_per_actor=auto: a GPU where there is one, and what a store was begun with where it was begun."""

from pathlib import Path

import pytest

from flows.config.commands import EmbedConfig
from flows.config.keys import EmbedExecution, EncoderKeys, EncoderRuntime, RayKeys
from flows.config.words import parse
from flows.runs.devices import encodes_on_gpu, with_gpus_for
from flows.runs.tiling import feature_set_of, settled_card, settled_spec
from mhim_core.embed.registry import encoder_card
from mhim_core.slides.spec import TileSpec
from mhim_core.storage import LocalStorage
from mhim_core.store.feature_sets import register

SPEC, RAY = TileSpec(), RayKeys()
AUTO = EmbedExecution(gpus_per_actor=None)


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path)


@pytest.fixture(params=[0, 2], ids=["no GPU", "two GPUs"])
def num_gpus(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("flows.runs.devices.gpus_here", lambda: int(request.param))
    return int(request.param)


def begin(storage: LocalStorage, keys: EncoderKeys, *, on_gpu: bool) -> None:
    card = settled_card(keys, SPEC, storage, on_gpu=on_gpu)
    register(storage, feature_set_of(settled_spec(SPEC, card, storage), card))


@pytest.mark.parametrize("encoder", ["hed-texture", "efficientnet-lite0"])
def test_auto_takes_a_gpu_where_there_is_one_and_goes_on_with_what_was_begun(
    storage: LocalStorage, num_gpus: int, encoder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = EncoderKeys(encoder=encoder)
    assert encodes_on_gpu(keys, SPEC, storage, AUTO, RAY) is (num_gpus > 0)
    assert encodes_on_gpu(keys, SPEC, storage, EmbedExecution(gpus_per_actor=0.25), RAY)
    assert not encodes_on_gpu(keys, SPEC, storage, EmbedExecution(gpus_per_actor=0.0), RAY)
    begin(storage, keys, on_gpu=False)
    capsys.readouterr()
    assert not encodes_on_gpu(keys, SPEC, storage, AUTO, RAY)
    assert ("made on a CPU" in capsys.readouterr().out) is (num_gpus > 0)
    begin(storage, keys, on_gpu=True)
    assert encodes_on_gpu(keys, SPEC, storage, AUTO, RAY), "what is missing of it then needs one, and that is said"


def test_a_runtime_of_one_device_decides(storage: LocalStorage, num_gpus: int) -> None:
    for runtime, expected in (("openvino", False), ("torch_fp16", True), ("torch_bf16", num_gpus > 0)):
        keys = EncoderKeys(encoder="efficientnet-lite0", encoder_runtime=EncoderRuntime(runtime))
        assert encodes_on_gpu(keys, SPEC, storage, AUTO, RAY) is expected


def test_auto_can_be_typed_and_is_settled_by_the_cards() -> None:
    config = parse(
        EmbedConfig, ["cohort=a.csv", "store=s", "gpus_per_actor=auto", "decoders_per_actor=auto"], command="embed"
    )
    assert config.embedding.gpus_per_actor is config.embedding.decoders_per_actor is None
    on_cpu, on_gpu = (encoder_card("hed-texture", device=device) for device in ("cpu", "cuda"))
    assert with_gpus_for(config, [on_cpu]).embedding.gpus_per_actor == 0
    assert with_gpus_for(config, [on_cpu, on_gpu]).embedding.gpus_per_actor == 1
