"""Encoders on the CPU and on a GPU: the same bits again and whatever the batch mates, nearly the same on both."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mhim_core.embed.encoder import TileEncoder
from mhim_core.embed.registry import load_encoder

MOBILENET = "timm/mobilenetv2_100"


@pytest.fixture(params=["hed-texture", MOBILENET])
def encoders(request: pytest.FixtureRequest, device: torch.device) -> dict[str, TileEncoder]:
    """The encoder on the CPU and on the device."""
    weights = str(request.getfixturevalue("mobilenet_weights")) if request.param == MOBILENET else None
    return {place: load_encoder(request.param, weights=weights, device=place) for place in sorted({"cpu", device.type})}


def test_features_are_the_same_bits_again_and_whatever_the_batch_mates(
    encoders: dict[str, TileEncoder], device: torch.device, noisy_tiles: Tensor
) -> None:
    encoder = encoders[device.type]
    whole = encoder(noisy_tiles)
    assert torch.equal(encoder(noisy_tiles), whole)
    assert torch.equal(encoder(noisy_tiles.flip(0)).flip(0), whole)
    assert torch.equal(torch.cat([encoder(part) for part in noisy_tiles.split([1, 13, 7])]), whole)


def test_features_of_real_tiles_are_nearly_those_of_the_cpu(
    encoders: dict[str, TileEncoder], device: torch.device, shared_data: Path
) -> None:
    """TF32 in the convolutions would move them by 1e-3 of their size and more."""
    paths = sorted((shared_data / "tiles").glob("*.png"))[:16]
    tiles = torch.stack([torch.from_numpy(np.array(Image.open(path).convert("RGB"))) for path in paths])
    expected, actual = encoders["cpu"](tiles), encoders[device.type](tiles)
    difference = (actual - expected).norm(dim=1) / expected.norm(dim=1)
    assert float(difference.max()) < 2e-4


def test_fewer_bits_give_the_same_bits_again_and_features_near_float32(
    device: torch.device, mobilenet_weights: Path, noisy_tiles: Tensor
) -> None:
    def load(runtime: str) -> TileEncoder:
        return load_encoder(MOBILENET, weights=str(mobilenet_weights), device=device.type, runtime=runtime)

    expected = load("torch")(noisy_tiles)
    for runtime in {"cpu": ["torch_bf16"], "cuda": ["torch_bf16", "torch_fp16"]}[device.type]:
        encoder = load(runtime)
        whole = encoder(noisy_tiles)
        assert torch.equal(torch.cat([encoder(part) for part in noisy_tiles.split([1, 13, 7])]), whole)
        assert 0.97 < float(torch.nn.functional.cosine_similarity(whole, expected).min()) < 1 - 1e-7, runtime
