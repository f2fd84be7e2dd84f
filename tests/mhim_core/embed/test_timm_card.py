import dataclasses
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import openslide
import pytest
import torch
from safetensors.torch import load_file, save_file

from mhim_core.embed.encoder import TileEncoder
from mhim_core.embed.registry import encoder_card, load_encoder, load_encoder_for
from mhim_core.errors import EncoderError

MOBILENET = "timm/mobilenetv2_100"
CONFIG = {
    "architecture": "mobilenetv2_100",
    "num_classes": 1000,
    "num_features": 1280,
    "global_pool": "avg",
    "model_args": {"pad_type": "same"},
    "pretrained_cfg": {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "input_size": [3, 224, 224],
        "interpolation": "bicubic",
        "license": "apache-2.0",
    },
}


@pytest.fixture
def folder(tmp_path: Path, mobilenet_weights: Path) -> Path:
    """A timm-style repository on disk: config.json beside model.safetensors."""
    shutil.copy(mobilenet_weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def test_a_files_metadata_fill_the_card(mobilenet: TileEncoder) -> None:
    card = mobilenet.card
    assert card.network == {"timm_model": "mobilenetv2_100", "args": {"pad_type": "same"}, "layout": "channels_last"}
    assert (card.dim, card.pooling, card.licence) == (1280, "avg", "Apache-2.0")
    assert card.transform["mean"] == [0.5, 0.5, 0.5]
    assert card.transform["input_px"] == 224
    assert len(card.weights_sha256) == 64


def test_no_card_holds_a_local_path(mobilenet: TileEncoder, mobilenet_weights: Path) -> None:
    assert str(mobilenet_weights.parent) not in mobilenet.card.to_json()
    assert mobilenet_weights.name not in mobilenet.card.to_json()


def test_features_of_another_implementation_are_reproduced_to_float16(
    mobilenet: TileEncoder, shared_data: Path
) -> None:
    path = sorted((shared_data / "bags" / "atlas10x").glob("*.h5"))[0]
    with h5py.File(path) as file:
        coords, expected = file["coords"][:16], file["features"][:16]
    with openslide.OpenSlide(shared_data / "slides" / "atlas10x" / f"{path.stem}.tiff") as slide:
        regions = [slide.read_region((int(x), int(y)), 0, (224, 224)).convert("RGB") for x, y in coords]
    features = mobilenet(torch.from_numpy(np.stack([np.asarray(region) for region in regions]))).numpy()
    half_a_step = np.spacing(np.abs(expected)).astype(np.float32) / 2
    assert np.all(np.abs(features - expected.astype(np.float32)) <= half_a_step + 2e-4)


def test_a_folder_and_a_file_of_the_same_weights_are_one_encoder(folder: Path, mobilenet: TileEncoder) -> None:
    card = encoder_card(MOBILENET, weights=str(folder))
    assert card.identity() == mobilenet.card.identity() | {"network": card.network, "transform": card.transform}
    assert card.network["args"] == {"pad_type": "same", "global_pool": "avg"}
    assert card.licence == "apache-2.0"


def test_a_torch_file_gives_the_same_features_as_safetensors(
    tmp_path: Path, mobilenet: TileEncoder, mobilenet_weights: Path, noisy_tiles: torch.Tensor
) -> None:
    tensors = load_file(mobilenet_weights) | {"classifier.weight": torch.zeros(10, 1280)}
    torch.save(tensors, tmp_path / "w.pth")
    card = dataclasses.replace(
        encoder_card(MOBILENET, weights=str(tmp_path / "w.pth")),
        network=mobilenet.card.network,
        transform=mobilenet.card.transform,
    )
    encoder = load_encoder_for(card, weights=str(tmp_path / "w.pth"))
    assert torch.equal(encoder(noisy_tiles[:2]), mobilenet(noisy_tiles[:2]))


def test_a_stored_card_of_local_weights_asks_where_they_are(mobilenet: TileEncoder) -> None:
    with pytest.raises(EncoderError, match=f"{mobilenet.card.weights_sha256}.*encoder_weights="):
        load_encoder_for(mobilenet.card)


def test_other_weights_under_a_stored_card_are_refused(
    tmp_path: Path, mobilenet: TileEncoder, mobilenet_weights: Path
) -> None:
    data = bytearray(mobilenet_weights.read_bytes())
    data[-1] ^= 1
    (tmp_path / "w.safetensors").write_bytes(data)
    with pytest.raises(EncoderError, match=f"expected {mobilenet.card.weights_sha256}"):
        load_encoder_for(mobilenet.card, weights=str(tmp_path / "w.safetensors"))


def test_a_name_that_is_not_the_files_model_is_refused(mobilenet_weights: Path) -> None:
    with pytest.raises(EncoderError, match="encoder=timm/mobilenetv2_100"):
        encoder_card("timm/resnet18", weights=str(mobilenet_weights))


def test_missing_layers_are_named(tmp_path: Path, mobilenet_weights: Path) -> None:
    tensors = load_file(mobilenet_weights)
    del tensors["conv_stem.weight"]
    save_file(tensors, tmp_path / "w.safetensors", metadata={"pad_type": "same"})
    with pytest.raises(EncoderError, match=r"1 layers missing \(conv_stem.weight\)"):
        load_encoder(MOBILENET, weights=str(tmp_path / "w.safetensors"))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model_args": {"act_layer": "os.system"}}, "act_layer"),
        ({"model_args": {"pad_type": {"_target_": "os.system"}}}, "pad_type"),
        ({"model_args": {"img_size": "many"}}, "img_size"),
        ({"architecture": "resnet18"}, "belong to resnet18"),
        ({"architecture": None}, "not a text"),
        ({"model_args": {"global_pool": ""}, "global_pool": None}, "set its global_pool"),
        ({"num_features": 7}, "state 7 features"),
        ({"pretrained_cfg": {"input_size": [3, 224, 320]}}, "tiles are square"),
        ({"pretrained_cfg": {"mean": [1, 2]}}, "mean and std"),
    ],
)
def test_a_config_this_version_cannot_build_is_refused(folder: Path, changes: dict, complaint: str) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    with pytest.raises(EncoderError, match=complaint):
        encoder_card(MOBILENET, weights=str(folder))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"architecture": "x", "pretrained_cfg": 3}'])
def test_a_broken_config_is_an_encoder_error(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(EncoderError, match="no timm config"):
        encoder_card(MOBILENET, weights=str(folder))


@pytest.mark.parametrize("name", ["gone.safetensors", "empty", "w.onnx"])
def test_weights_that_are_not_there_or_no_weights_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "w.onnx").write_bytes(b"")
    with pytest.raises(EncoderError, match=name):
        encoder_card(MOBILENET, weights=str(tmp_path / name))


def test_a_stored_card_cannot_make_timm_load_anything_but_its_own_models(
    mobilenet: TileEncoder, mobilenet_weights: Path
) -> None:
    network = mobilenet.card.network | {"timm_model": "hf-hub:somebody/something"}
    with pytest.raises(EncoderError, match="has no model"):
        load_encoder_for(dataclasses.replace(mobilenet.card, network=network), weights=str(mobilenet_weights))


def test_loading_a_network_leaves_the_global_generator_alone(mobilenet: TileEncoder, mobilenet_weights: Path) -> None:
    before = torch.get_rng_state()
    load_encoder_for(mobilenet.card, weights=str(mobilenet_weights))
    assert torch.equal(torch.get_rng_state(), before)
