"""Networks compiled by OpenVINO: torch's function to the stated bound, the same bits whatever is around a tile."""

import dataclasses
import os
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mhim_core.embed import openvino_runtime
from mhim_core.embed.agreement import BOUNDS, agreement, trial_tiles
from mhim_core.embed.card import BFLOAT16, RUNTIME_OPENVINO, EncoderCard
from mhim_core.embed.encoder import TileEncoder, TorchEncoder
from mhim_core.embed.openvino_runtime import CompiledNetwork, compiled_network
from mhim_core.embed.registry import load_encoder
from mhim_core.embed.slide_encoder import versions_of
from mhim_core.embed.timm_encoder import import_timm
from mhim_core.embed.transform import TileTransform, transform_facts
from mhim_core.errors import EncoderError

pytestmark = pytest.mark.skipif(find_spec("openvino") is None, reason="the extra `openvino` is not installed")
INPUT_PX = 64


def make_card(**changes: Any) -> EncoderCard:
    facts: dict[str, Any] = {
        "id": "test",
        "source": "",
        "weights_sha256": "",
        "revision": "",
        "licence": "",
        "pooling": "avg",
        "network": {},
        "transform": transform_facts(INPUT_PX, [0.5] * 3, [0.5] * 3),
        "runtime": RUNTIME_OPENVINO,
        "dim": 8,
        "batch_size": 2,
        "num_threads": 1,
    }
    return EncoderCard(**facts | changes)


def make_network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = (
            nn.Conv2d(3, 16, 3, 2, 1),
            nn.SiLU(),
            nn.Conv2d(16, 8, 3, 2, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        return nn.Sequential(*layers).eval().requires_grad_(False)


def make_vit() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vit: nn.Module = import_timm().create_model(
            "vit_tiny_patch16_224", pretrained=False, num_classes=0, img_size=INPUT_PX, depth=2
        )
        return vit.eval().requires_grad_(False)


def through(card: EncoderCard, network: nn.Module) -> TorchEncoder:
    return TorchEncoder(card, nn.Sequential(TileTransform(card.transform), network))


def has_bfloat16() -> bool:
    capabilities = openvino_runtime.import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "BF16" in capabilities


def test_features_are_those_of_torch(
    efficientnet: TileEncoder, efficientnet_openvino: TileEncoder, noisy_tiles: Tensor
) -> None:
    found = agreement([efficientnet_openvino(noisy_tiles)], [efficientnet(noisy_tiles)])
    assert found.relative_error < 1e-5
    assert found.cosine > 1 - 1e-9


@pytest.mark.parametrize("make", [make_network, make_vit])
def test_a_feature_depends_neither_on_batch_mates_nor_on_batch_size_nor_on_threads(
    make: Any, noisy_tiles: Tensor
) -> None:
    network, tiles = make(), noisy_tiles[:7]
    card = make_card(dim=network(torch.zeros(1, 3, INPUT_PX, INPUT_PX)).shape[1])
    encoder = through(card, CompiledNetwork(card, network))
    whole = encoder(tiles)
    assert torch.equal(torch.cat([encoder(part) for part in tiles.split([1, 2, 4])]), whole)
    assert torch.equal(encoder(tiles.flip(0)).flip(0), whole)
    for changes in ({"num_threads": 2}, {"batch_size": 5}):
        other = dataclasses.replace(card, **changes)
        assert torch.equal(through(other, CompiledNetwork(other, network))(tiles), whole)


def test_bfloat16_is_coarser_and_within_its_own_bound(noisy_tiles: Tensor) -> None:
    if not has_bfloat16():
        pytest.skip("this CPU has no bfloat16")
    network = make_network()
    card = make_card(precision=BFLOAT16)
    encoder = through(card, compiled_network(card, TileTransform(card.transform), network))
    found = agreement([encoder(noisy_tiles)], [through(card, network)(noisy_tiles)])
    assert 1e-4 < found.relative_error < BOUNDS[BFLOAT16].relative_error
    assert torch.equal(encoder(noisy_tiles[3:4])[0], encoder(noisy_tiles)[3])


def test_a_cpu_that_does_not_compute_in_the_cards_precision_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = openvino_runtime._properties
    monkeypatch.setattr(
        openvino_runtime, "_properties", lambda card: properties(card) | {"INFERENCE_PRECISION_HINT": "f32"}
    )
    with pytest.raises(EncoderError, match=r"bfloat16.*encoder_runtime=openvino"):
        CompiledNetwork(make_card(precision=BFLOAT16), make_network())


@pytest.mark.parametrize("factor", [1.01, float("nan")])
def test_a_network_that_comes_out_otherwise_is_refused_with_the_figures(
    monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    forward = CompiledNetwork.forward
    monkeypatch.setattr(CompiledNetwork, "forward", lambda self, pixels: factor * forward(self, pixels))
    card = make_card()
    with pytest.raises(EncoderError, match=r"off by (1\.0e-02|nan).*encoder_runtime=torch"):
        compiled_network(card, TileTransform(card.transform), make_network())


def test_a_network_that_cannot_be_exported_is_refused_with_the_way_around() -> None:
    class Branching(nn.Module):
        def forward(self, pixels: Tensor) -> Tensor:
            return pixels.mean((2, 3)) if pixels.sum() > 0 else pixels.amax((2, 3))

    with pytest.raises(EncoderError, match=r"cannot be exported.*encoder_runtime=torch"):
        CompiledNetwork(make_card(dim=3), Branching())


def test_a_machine_without_openvino_is_told_the_extra_and_the_way_around(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EncoderError, match=r"mhim\[openvino\].*encoder_runtime=torch"):
        load_encoder("efficientnet-lite0", runtime="openvino")


def test_the_trial_tiles_are_the_same_everywhere_and_no_tile_is_like_another() -> None:
    tiles = trial_tiles(4)
    assert tiles.shape == (4, 256, 256, 3)
    assert torch.equal(tiles, trial_tiles(4))
    red, green, blue = tiles.float().mean((0, 1, 2))
    assert min(red, blue) > green + 20  # pink to purple
    assert tiles.float().flatten(1).std(dim=1).min() > 20
    assert len({tile.numpy().tobytes() for tile in tiles}) == 4


_WITHOUT_NETWORK = """
import socket, sys

def refuse(self, address):
    print("connects to", address, flush=True)
    raise OSError("no network here")

socket.socket.connect = socket.socket.connect_ex = refuse
socket.getaddrinfo = lambda *words, **more: refuse(None, words)
import torch
from mhim_core.embed.openvino_runtime import CompiledNetwork
from mhim_core.embed.card import EncoderCard

transform = {"input_px": 32}
card = EncoderCard(id="t", source="", weights_sha256="", revision="", licence="", pooling="", network={}, dim=4,
                   transform=transform, runtime="openvino-cpu", batch_size=2, num_threads=1)
network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
assert CompiledNetwork(card, network.eval().requires_grad_(False))(torch.rand(2, 3, 32, 32)).shape == (2, 4)
assert not [name for name in sys.modules if name.startswith("openvino_telemetry")]
"""


def test_nothing_is_sent_and_nothing_kept_about_the_user(tmp_path: Path) -> None:
    environment = os.environ | {"HOME": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-c", _WITHOUT_NETWORK], env=environment, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, ""), ended.stderr
    assert not (tmp_path / "intel").exists()


def test_the_versions_name_the_instruction_set(efficientnet_openvino: TileEncoder) -> None:
    assert isinstance(efficientnet_openvino, TorchEncoder)
    assert versions_of(efficientnet_openvino.card)["openvino"] == version("openvino")
    assert set(efficientnet_openvino.versions) == {"openvino-isa"}
    assert set(efficientnet_openvino.versions["openvino-isa"].split()) & openvino_runtime._INSTRUCTION_SETS
