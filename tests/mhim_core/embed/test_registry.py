import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mhim_core.embed.encoder import TileEncoder
from mhim_core.embed.registry import card_found_here, encoder_card, load_encoder, load_encoder_for, runtime_of
from mhim_core.errors import EncoderError
from mhim_core.fingerprint import fingerprint

MOBILENET = "timm/mobilenetv2_100"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "timm/",
        "os.system",
        "_target_",
        "resnet50",
        "HED-TEXTURE",
        "../weights.pth",
        "timm/../x",
        "timm//x",
        "timm/a/b/c",
    ],
)
def test_names_outside_the_registry_are_refused_and_the_known_ones_listed(name: str) -> None:
    with pytest.raises(EncoderError, match="Known are hed-texture, efficientnet-lite0, timm/<model>"):
        load_encoder(name)


def test_a_near_miss_is_answered_with_the_name_that_was_meant() -> None:
    with pytest.raises(EncoderError, match="did you mean hed-texture"):
        encoder_card("hed_texture")


def test_weights_for_an_encoder_without_weights_are_refused() -> None:
    with pytest.raises(EncoderError, match="has no weights"):
        encoder_card("hed-texture", weights="w.pth")


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(EncoderError, match="set cpu or cuda"):
        encoder_card("hed-texture", device="tpu")


def test_the_device_is_part_of_the_identity_since_it_changes_the_last_bits() -> None:
    assert encoder_card("hed-texture").identity() != encoder_card("hed-texture", device="cuda").identity()


def test_openvino_is_a_runtime_of_networks_on_a_cpu() -> None:
    with pytest.raises(EncoderError, match=r"no network.*encoder_runtime=torch"):
        encoder_card("hed-texture", runtime="openvino")
    with pytest.raises(EncoderError, match="not known on cuda; known there: torch"):
        encoder_card("hed-texture", runtime="openvino", device="cuda")
    with pytest.raises(EncoderError, match="known there: torch, torch_bf16, openvino, openvino_bf16"):
        encoder_card("hed-texture", runtime="onnx")


def test_a_cards_runtime_is_found_again_from_the_card(mobilenet_weights: Path) -> None:
    given = {"weights": str(mobilenet_weights)}
    cards = [encoder_card(MOBILENET, runtime=runtime, **given) for runtime in ("torch", "openvino", "openvino_bf16")]
    cards.append(encoder_card(MOBILENET, device="cuda", **given))
    assert len({fingerprint(card.identity()) for card in cards}) == 4
    assert [card_found_here(card, **given) for card in cards] == cards
    assert [runtime_of(card) for card in cards] == ["torch", "openvino", "openvino_bf16", "torch"]


def test_a_card_costs_no_heavy_import() -> None:
    code = (
        "import sys\n"
        "from importlib.util import find_spec\n"
        "from mhim_core.embed.registry import encoder_card\n"
        "from mhim_core.embed.efficientnet_lite0 import PACKAGE\n"
        "encoder_card('hed-texture')\n"
        "if find_spec(PACKAGE): encoder_card('efficientnet-lite0')\n"
        "heavy = {'torch', 'timm', 'numpy', 'openslide', 'safetensors', 'huggingface_hub', 'openvino'}\n"
        "heavy &= set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_stored_card_builds_the_same_encoder_again(hed_texture: TileEncoder, noisy_tiles: torch.Tensor) -> None:
    card = type(hed_texture.card).from_json(hed_texture.card.to_json())
    assert torch.equal(load_encoder_for(card)(noisy_tiles), hed_texture(noisy_tiles))


def test_a_stored_card_of_other_statistics_is_refused(hed_texture: TileEncoder) -> None:
    newer = dataclasses.replace(hed_texture.card, network={"algorithm": "hed-texture", "version": 2})
    with pytest.raises(EncoderError, match="this version computes"):
        load_encoder_for(newer)


def test_a_stored_card_of_other_weights_is_refused(efficientnet: TileEncoder) -> None:
    other = dataclasses.replace(efficientnet.card, weights_sha256="0" * 64)
    with pytest.raises(EncoderError, match=f"expected {'0' * 64}"):
        load_encoder_for(other)


def test_a_stored_card_with_an_unknown_name_is_refused(hed_texture: TileEncoder) -> None:
    with pytest.raises(EncoderError, match="is unknown"):
        load_encoder_for(dataclasses.replace(hed_texture.card, id="somewhere.Class"))
