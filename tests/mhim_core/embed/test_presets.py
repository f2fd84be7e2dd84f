"""Published encoders: what their cards say, what timm builds of them, and weights of every layout."""

import dataclasses
import json
import math
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from huggingface_hub import HfApi, constants, errors
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mhim_core.embed import preset as preset_module
from mhim_core.embed.card import RUNTIME_OPENVINO, EncoderCard
from mhim_core.embed.dinov2_layouts import in_timm_layout
from mhim_core.embed.preset import (
    BICUBIC,
    BICUBIC_ANTIALIASED,
    TOKEN,
    TOKEN_AND_MEAN,
    Preset,
    all_presets,
    preset_of,
    scale_warning,
)
from mhim_core.embed.preset_encoder import build_preset, make_pooled
from mhim_core.embed.registry import card_found_here, encoder_card, load_encoder_for, num_weight_bytes
from mhim_core.embed.transform import TileTransform
from mhim_core.errors import EncoderError
from mhim_core.fingerprint import fingerprint

PUBLISHED_PARAMS = {
    "uni": 303.4e6,
    "uni2-h": 681.4e6,
    "virchow": 631.2e6,
    "virchow2": 631.2e6,
    "h-optimus-0": 1.13e9,
    "h-optimus-1": 1.13e9,
    "h0-mini": 85.7e6,
    "prov-gigapath": 1.13e9,
    "phikon-v2": 303.4e6,
    "midnight-12k": 1.14e9,
    "hibou-b": 85.7e6,
    "hibou-l": 303.7e6,
    "lunit-vits16": 21.7e6,
    "lunit-vits8": 21.7e6,
}
"""As the publishers, or github.com/rendeirolab/lazyslide-models, print them, without the mask token."""
PUBLISHED_DIMS = {
    "uni": 1024,
    "uni2-h": 1536,
    "virchow": 2560,
    "virchow-cls": 1280,
    "virchow2": 2560,
    "virchow2-cls": 1280,
    "h-optimus-0": 1536,
    "h-optimus-1": 1536,
    "h0-mini": 768,
    "h0-mini-cls-mean": 1536,
    "prov-gigapath": 1536,
    "phikon-v2": 1024,
    "midnight-12k": 3072,
    "midnight-12k-cls": 1536,
    "hibou-b": 768,
    "hibou-l": 1024,
    "kaiko-vits16": 384,
    "kaiko-vits8": 384,
    "kaiko-vitb16": 768,
    "kaiko-vitb8": 768,
    "kaiko-vitl14": 1024,
    "lunit-vits16": 384,
    "lunit-vits8": 384,
}
TINY = {"embed_dim": 24, "depth": 2, "num_heads": 3, "img_size": 28, "patch_size": 14}


@pytest.mark.parametrize("preset", all_presets().values(), ids=lambda preset: preset.name)
def test_timm_builds_what_was_published(preset: Preset) -> None:
    pooled = make_pooled(preset.name, preset.network(), preset.pooling, on_meta=True).eval()
    num_params = sum(parameter.numel() for parameter in pooled.parameters())
    pixels = torch.empty(1, 3, preset.input_px, preset.input_px, device="meta")
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        shape = pooled(pixels).shape
    assert shape == (1, preset.dim)
    assert preset.dim == PUBLISHED_DIMS[preset.name]
    assert num_params == preset.num_params
    assert counter.get_total_flops() / 1e9 == pytest.approx(preset.gflops, abs=0.051)
    if preset.name in PUBLISHED_PARAMS:
        assert num_params == pytest.approx(PUBLISHED_PARAMS[preset.name], rel=5e-3)


def test_every_published_encoder_is_here() -> None:
    assert set(all_presets()) == set(PUBLISHED_DIMS)


@pytest.mark.parametrize("preset", all_presets().values(), ids=lambda preset: preset.name)
def test_a_presets_facts_are_whole(preset: Preset) -> None:
    assert re.fullmatch(r"[a-z0-9-]+", preset.name)
    assert re.fullmatch(r"[0-9a-f]{40}|", preset.revision)
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", preset.repo)
    assert preset.sources
    assert preset.licence
    assert preset.gated or "Apache" not in preset.licence or not preset.terms
    TileTransform(preset.transform())  # raises on facts that no network can mean
    assert json.loads(json.dumps(preset.network())) == preset.network()


def test_one_set_of_weights_under_two_names_differs_in_pooling_and_length_alone() -> None:
    for name, pooling, dim in (("virchow2", TOKEN_AND_MEAN, 2560), ("virchow2-cls", TOKEN, 1280)):
        preset = all_presets()[name]
        assert (preset.pooling, preset.dim) == (pooling, dim)
    pair = [dataclasses.asdict(all_presets()[name]) for name in ("virchow2", "virchow2-cls")]
    assert {key for key in pair[0] if pair[0][key] != pair[1][key]} == {"name", "pooling", "dim"}


def tiny_twin(name: str) -> Preset:
    """The preset with a tiny network of the same parts."""
    preset = all_presets()[name]
    kept = {key: value for key, value in preset.args.items() if key not in ("embed_dim", "depth", "num_heads")}
    return dataclasses.replace(
        preset,
        args=kept | TINY | ({"patch_size": 7} if preset.position_grid else {}),
        dim=24 * (1 + (preset.pooling == TOKEN_AND_MEAN)),
        input_px=28,
        resize_px=32 if preset.resize_px else 0,
    )


def random_tensors(preset: Preset, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    names = make_pooled(preset.name, preset.network(), preset.pooling, on_meta=True).transformer.state_dict()
    return {name: 0.3 * torch.randn(value.shape, generator=generator) for name, value in names.items()}


@pytest.fixture
def twin(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Preset, Path]:
    """A preset's tiny twin in its place, and a file of random weights for it."""
    preset = tiny_twin(request.param)
    everything = all_presets() | {preset.name: preset}
    monkeypatch.setattr(preset_module, "all_presets", lambda: everything)
    save_file(random_tensors(preset), tmp_path / "w.safetensors")
    return preset, tmp_path / "w.safetensors"


@pytest.mark.parametrize(
    "twin", ["uni", "uni2-h", "virchow2", "virchow2-cls", "h0-mini", "prov-gigapath", "kaiko-vitl14"], indirect=True
)
def test_a_tiny_twin_goes_from_file_to_features(twin: tuple[Preset, Path], noisy_tiles: Tensor) -> None:
    preset, weights = twin
    card = encoder_card(preset.name, weights=str(weights))
    assert (card.id, card.dim, card.pooling, card.licence) == (preset.name, preset.dim, preset.pooling, preset.licence)
    assert str(weights.parent) not in card.to_json()
    assert EncoderCard.from_json(card.to_json()) == card
    assert card_found_here(card, weights=str(weights)) == card
    assert num_weight_bytes(card, weights=str(weights)) == weights.stat().st_size
    encoder = load_encoder_for(card, weights=str(weights))
    features = encoder(noisy_tiles[:3])
    assert features.shape == (3, preset.dim)
    assert torch.equal(encoder(noisy_tiles[1:2])[0], features[1])
    assert not torch.allclose(features[0], features[1])
    with pytest.raises(EncoderError, match="encoder_weights="):
        load_encoder_for(card)


@pytest.mark.parametrize("twin", ["virchow2"], indirect=True)
def test_class_token_and_mean_leave_the_registers_out(twin: tuple[Preset, Path], noisy_tiles: Tensor) -> None:
    preset, weights = twin
    encoder = load_encoder_for(encoder_card(preset.name, weights=str(weights)), weights=str(weights))
    transformer = make_pooled(preset.name, preset.network(), preset.pooling).transformer.eval()
    transformer.load_state_dict(random_tensors(preset))
    with torch.inference_mode():
        tokens_bnd = transformer.forward_features(TileTransform(preset.transform())(noisy_tiles[:8]))
    assert tokens_bnd.shape[1] == 1 + 4 + 4
    expected = torch.cat([tokens_bnd[:, 0], tokens_bnd[:, 5:].mean(1)], dim=1)
    torch.testing.assert_close(encoder(noisy_tiles[:8]), expected, atol=1e-6, rtol=1e-5)


def slow_dinov2(tensors: dict[str, Tensor], pixels: Tensor, patch_px: int, num_heads: int) -> Tensor:
    """DINOv2 as the package transformers lays it out, token by token: float64 (b, n, d) after the last norm."""
    names = {name: tensor.double() for name, tensor in tensors.items()}

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ names[f"{name}.weight"].T + names[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scale = (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return centred / scale * names[f"{name}.weight"] + names[f"{name}.bias"]

    def attention(x: Tensor, name: str) -> Tensor:
        dim = x.shape[-1] // num_heads
        heads = []
        for head in range(num_heads):
            own = slice(head * dim, (head + 1) * dim)
            query, key, value = (linear(x, f"{name}.attention.{part}")[..., own] for part in ("query", "key", "value"))
            heads.append((query @ key.mT / math.sqrt(dim)).softmax(-1) @ value)
        return linear(torch.cat(heads, -1), f"{name}.output.dense")

    def mlp(x: Tensor, name: str) -> Tensor:
        if f"{name}.fc1.weight" in names:
            hidden = linear(x, f"{name}.fc1")
            return linear(hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))), f"{name}.fc2")
        gate, value = linear(x, f"{name}.weights_in").chunk(2, -1)
        return linear(gate * torch.sigmoid(gate) * value, f"{name}.weights_out")

    side = pixels.shape[-1] // patch_px
    kernel = names["embeddings.patch_embeddings.projection.weight"]
    patches = [
        torch.einsum(
            "bchw,dchw->bd",
            pixels.double()[..., y * patch_px : (y + 1) * patch_px, x * patch_px : (x + 1) * patch_px],
            kernel,
        )
        for y in range(side)
        for x in range(side)
    ]
    x = torch.stack(patches, 1) + names["embeddings.patch_embeddings.projection.bias"]
    x = torch.cat([names["embeddings.cls_token"].expand(len(x), -1, -1), x], 1)
    x = x + names["embeddings.position_embeddings"]
    if "embeddings.register_tokens" in names:
        registers = names["embeddings.register_tokens"].expand(len(x), -1, -1)
        x = torch.cat([x[:, :1], registers, x[:, 1:]], 1)
    for block in range(TINY["depth"]):
        name = f"encoder.layer.{block}"
        x = x + names[f"{name}.layer_scale1.lambda1"] * attention(norm(x, f"{name}.norm1"), f"{name}.attention")
        x = x + names[f"{name}.layer_scale2.lambda1"] * mlp(norm(x, f"{name}.norm2"), f"{name}.mlp")
    return norm(x, "layernorm")


def transformers_tensors(*, hidden: int, swiglu: bool, num_registers: int, num_patches: int, patch_px: int) -> Any:
    """Random weights under the names of transformers' Dinov2Model, or of Hibou's with registers."""
    generator, dim = torch.Generator().manual_seed(3), TINY["embed_dim"]

    def made(*shape: int) -> Tensor:
        return 0.3 * torch.randn(*shape, generator=generator)

    tensors = {
        "embeddings.cls_token": made(1, 1, dim),
        "embeddings.mask_token": made(1, dim),
        "embeddings.position_embeddings": made(1, 1 + num_patches, dim),
        "embeddings.patch_embeddings.projection.weight": made(dim, 3, patch_px, patch_px),
        "embeddings.patch_embeddings.projection.bias": made(dim),
        "layernorm.weight": made(dim),
        "layernorm.bias": made(dim),
    }
    if num_registers:
        tensors["embeddings.register_tokens"] = made(1, num_registers, dim)
    mlp = {"weights_in": (2 * hidden, dim), "weights_out": (dim, hidden)}
    if not swiglu:
        mlp = {"fc1": (hidden, dim), "fc2": (dim, hidden)}
    for block in range(TINY["depth"]):
        name = f"encoder.layer.{block}"
        linears = {f"attention.attention.{part}": (dim, dim) for part in ("query", "key", "value")}
        linears |= {"attention.output.dense": (dim, dim)} | {f"mlp.{part}": shape for part, shape in mlp.items()}
        for part, shape in linears.items():
            tensors |= {f"{name}.{part}.weight": made(*shape), f"{name}.{part}.bias": made(shape[0])}
        for part in ("norm1", "norm2"):
            tensors |= {f"{name}.{part}.weight": made(dim), f"{name}.{part}.bias": made(dim)}
        for part in ("layer_scale1", "layer_scale2"):
            tensors[f"{name}.{part}.lambda1"] = made(dim)
    return tensors


@pytest.mark.parametrize(
    ("name", "hidden", "swiglu", "num_registers"),
    [("phikon-v2", 96, False, 0), ("midnight-12k", 64, True, 0), ("hibou-b", 64, True, 4), ("hibou-l", 64, True, 4)],
)
def test_weights_in_the_layout_of_transformers_are_the_same_network(
    name: str, hidden: int, swiglu: bool, num_registers: int, noisy_tiles: Tensor
) -> None:
    preset = tiny_twin(name)
    tensors = transformers_tensors(
        hidden=hidden, swiglu=swiglu, num_registers=num_registers, num_patches=16, patch_px=7
    )
    encoder = build_preset(card_of(preset), tensors)
    pixels = TileTransform(preset.transform())(noisy_tiles[:4])
    tokens_bnd = slow_dinov2(tensors, pixels, 7, TINY["num_heads"])
    expected = tokens_bnd[:, 0]
    if preset.pooling == TOKEN_AND_MEAN:
        expected = torch.cat([expected, tokens_bnd[:, 1 + num_registers :].mean(1)], 1)
    torch.testing.assert_close(encoder(noisy_tiles[:4]).double(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(find_spec("openvino") is None, reason="the extra `openvino` is not installed")
@pytest.mark.parametrize("name", ["uni", "uni2-h", "virchow2"])
def test_openvino_computes_the_same_network(name: str, noisy_tiles: Tensor) -> None:
    """Gated MLPs, layer scale, register tokens and both poolings."""
    preset = tiny_twin(name)
    card, tensors = card_of(preset), random_tensors(preset)
    by_openvino = dataclasses.replace(card, runtime=RUNTIME_OPENVINO, batch_size=2)
    features = build_preset(by_openvino, tensors)(noisy_tiles[:5])
    torch.testing.assert_close(features, build_preset(card, tensors)(noisy_tiles[:5]), atol=1e-4, rtol=1e-4)


def card_of(preset: Preset) -> EncoderCard:
    return EncoderCard(
        id=preset.name,
        source="local weights",
        weights_sha256="0" * 64,
        revision="",
        licence=preset.licence,
        pooling=preset.pooling,
        network=preset.network(),
        transform=preset.transform(),
        dim=preset.dim,
    )


@pytest.mark.parametrize(("name", "position_grid"), [("midnight-12k", BICUBIC), ("hibou-b", BICUBIC_ANTIALIASED)])
def test_positions_of_another_grid_are_fitted_as_the_publisher_fits_them(name: str, position_grid: str) -> None:
    preset = tiny_twin(name)
    assert preset.position_grid == position_grid
    num_registers = 4 * ("hibou" in name)
    tensors = transformers_tensors(hidden=64, swiglu=True, num_registers=num_registers, num_patches=81, patch_px=7)
    model = make_pooled(name, preset.network(), preset.pooling).transformer
    fitted_1nd = in_timm_layout(tensors, model, position_grid, name)["pos_embed"]
    grid = tensors["embeddings.position_embeddings"][:, 1:].reshape(1, 9, 9, -1).permute(0, 3, 1, 2)
    antialias = position_grid == BICUBIC_ANTIALIASED
    expected = F.interpolate(grid, size=(4, 4), mode="bicubic", antialias=antialias).flatten(2).mT
    assert torch.equal(fitted_1nd[:, -16:], expected)
    assert fitted_1nd.shape == model.pos_embed.shape
    with pytest.raises(EncoderError, match="do not fit the network"):
        build_preset(dataclasses.replace(card_of(preset), network=preset.network() | {"position_grid": ""}), tensors)


def test_weights_in_dinov2s_own_layout_are_the_same_network(noisy_tiles: Tensor) -> None:
    preset = tiny_twin("hibou-b")
    ours = random_tensors(preset)
    positions_1nd = torch.cat([torch.full((1, 1, 24), 0.25), ours["pos_embed"]], 1)
    theirs = {"mask_token": torch.zeros(1, 24), "register_tokens": ours["reg_token"], "pos_embed": positions_1nd}
    theirs |= {"cls_token": ours["cls_token"] - 0.25}
    for name, tensor in ours.items():
        if name not in ("reg_token", "pos_embed", "cls_token"):
            theirs[name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3")] = tensor
    card = card_of(preset)
    torch.testing.assert_close(build_preset(card, theirs)(noisy_tiles[:2]), build_preset(card, ours)(noisy_tiles[:2]))


def test_weights_in_half_precision_are_computed_with_in_float32(noisy_tiles: Tensor) -> None:
    preset = tiny_twin("uni2-h")
    halves = {name: tensor.half() for name, tensor in random_tensors(preset).items()}
    floats = {name: tensor.float() for name, tensor in halves.items()}
    encoder = build_preset(card_of(preset), halves)
    assert torch.equal(encoder(noisy_tiles[:2]), build_preset(card_of(preset), floats)(noisy_tiles[:2]))


@pytest.mark.parametrize(
    "gone", ["encoder.layer.1.attention.attention.key.bias", "encoder.layer.0.mlp.weights_in.weight"]
)
def test_a_layer_that_is_missing_or_unknown_is_named(gone: str) -> None:
    preset = tiny_twin("midnight-12k")
    tensors = transformers_tensors(hidden=64, swiglu=True, num_registers=0, num_patches=16, patch_px=7)
    tensors["encoder.layer.0.mlp.surprise.weight"] = tensors.pop(gone)
    with pytest.raises(EncoderError, match="do not fit"):
        build_preset(card_of(preset), tensors)


def test_the_centre_of_a_tile_is_cut_out_where_it_is_published_so(noisy_tiles: Tensor) -> None:
    facts = all_presets()["prov-gigapath"].transform()
    assert (facts["input_px"], facts["resize_px"], facts["crop"]) == (224, 256, "center")
    tiles = torch.randint(0, 256, (2, 256, 256, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    whole = TileTransform(facts | {"input_px": 256, "crop": "none", "resize_px": 256})(tiles)
    assert torch.equal(TileTransform(facts)(tiles), whole[..., 16:240, 16:240])
    for broken in ({"resize_px": 200}, {"crop": "none"}, {"crop": "left"}, {"resize_px": 224}):
        with pytest.raises(EncoderError):
            TileTransform(facts | broken)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_gated_encoder_without_a_token_says_where_its_terms_are_and_what_else_would_do(
    monkeypatch: pytest.MonkeyPatch, empty_cache: Path
) -> None:
    asked: list[str | None] = []

    def refuse(self: HfApi, repo: str, *, revision: str | None, timeout: float) -> None:
        asked.append(revision)
        raise errors.GatedRepoError("401", response=httpx2.Response(401, request=httpx2.Request("GET", "https://x")))

    monkeypatch.setattr(HfApi, "model_info", refuse)
    with pytest.raises(EncoderError, match=r"https://huggingface.co/MahmoodLab/UNI2-h.*HF_TOKEN.*encoder_weights="):
        encoder_card("uni2-h")
    with pytest.raises(EncoderError, match="histai/hibou-L"):
        encoder_card("hibou-l")
    assert asked == [all_presets()["uni2-h"].revision, None]


@pytest.mark.parametrize("twin", ["uni2-h"], indirect=True)
def test_weights_from_the_hub_are_of_the_pinned_commit(twin: tuple[Preset, Path], empty_cache: Path) -> None:
    preset, weights = twin
    snapshot = empty_cache / "models--MahmoodLab--UNI2-h" / "snapshots" / preset.revision
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (snapshot / "model.safetensors").write_bytes(weights.read_bytes())
    card = encoder_card("uni2-h")
    assert (card.revision, card.source) == (preset.revision, "https://huggingface.co/MahmoodLab/UNI2-h")
    assert card.identity() == encoder_card("uni2-h", weights=str(weights)).identity()
    assert load_encoder_for(card).card == card
    assert num_weight_bytes(card) == weights.stat().st_size


@pytest.mark.parametrize("weights", ["gone.pth", "empty", "w.onnx"])
def test_a_file_that_holds_no_weights_is_refused_by_name(tmp_path: Path, weights: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "w.onnx").touch()
    with pytest.raises(EncoderError, match=re.escape(weights)):
        encoder_card("uni", weights=str(tmp_path / weights))


def test_a_scale_that_an_encoder_was_not_trained_at_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "target_mpp=0.5" in scale_warning("uni2-h", 1.0)
    assert scale_warning("uni2-h", 0.5) == scale_warning("uni2-h", 0.51) == ""
    assert scale_warning("virchow2", 1.0) == scale_warning("hed-texture", 1.0) == scale_warning("timm/x", 4.0) == ""
    assert "0.5, 0.25, 1, 2" in scale_warning("virchow2", 4.0)


def test_cards_are_what_they_were_when_they_were_first_made(tmp_path: Path) -> None:
    """An edit of the table that changes one of these makes every store of that encoder another one."""
    (tmp_path / "w.pth").write_bytes(b"not read")
    found = {
        name: fingerprint(encoder_card(name, weights=str(tmp_path / "w.pth")).identity())[:12] for name in all_presets()
    }
    assert found == PINNED


PINNED = {
    "h-optimus-0": "c7b1cb0d16c5",
    "h-optimus-1": "b206a98e4724",
    "h0-mini": "073dce647aed",
    "h0-mini-cls-mean": "20f4e293fa0b",
    "hibou-b": "39287e72d771",
    "hibou-l": "7c50157a89ca",
    "midnight-12k": "afb8e81acaf9",
    "midnight-12k-cls": "586175171a98",
    "kaiko-vits16": "469daa51fe1e",
    "kaiko-vits8": "8c1083da6a68",
    "kaiko-vitb16": "d7bda03a4bac",
    "kaiko-vitb8": "3edc407c2c2b",
    "kaiko-vitl14": "1e1dabcc78ec",
    "lunit-vits16": "bc558dbf694e",
    "lunit-vits8": "e618ccba1331",
    "uni": "0d6753256950",
    "uni2-h": "46af0ca598a7",
    "prov-gigapath": "13cc932da8c7",
    "phikon-v2": "ff7ca8742fbe",
    "virchow": "2eada4a9c34f",
    "virchow-cls": "fd55028a437f",
    "virchow2": "9f9a923d6f73",
    "virchow2-cls": "704cdda539ef",
}


def test_a_presets_card_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from mhim_core.embed.registry import encoder_card\n"
        f"open({str(tmp_path / 'w.pth')!r}, 'w').close()\n"
        f"encoder_card('uni2-h', weights={str(tmp_path / 'w.pth')!r})\n"
        "heavy = {'torch', 'timm', 'numpy', 'huggingface_hub'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_name_in_other_letters_is_answered_with_the_one_that_was_meant() -> None:
    for name, meant in (("UNI2-h", "uni2-h"), ("virchow-2", "virchow2"), ("H-Optimus-0", "h-optimus-0")):
        with pytest.raises(EncoderError, match=f"did you mean {meant}"):
            encoder_card(name)
    assert preset_of("UNI2-h") is None
