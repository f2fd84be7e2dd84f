"""A user's own file: TorchScript, torch.export and ONNX give the network's features; files that lie are refused."""

import dataclasses
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mhim_core.embed.onnx_file import names_other_files
from mhim_core.embed.own_file import ONNX, TORCH_EXPORT, TORCHSCRIPT, OwnFile, file_format
from mhim_core.embed.registry import card_found_here, encoder_card, load_encoder_for, num_weight_bytes
from mhim_core.embed.transform import TileTransform
from mhim_core.errors import EncoderError

INPUT_PX = 32
HALF = (0.5, 0.5, 0.5)
SUFFIX = {TORCHSCRIPT: ".ts", TORCH_EXPORT: ".pt2", ONNX: ".onnx"}


def own(path: Path, **changes: Any) -> OwnFile:
    return OwnFile(path=str(path), **{"input_px": INPUT_PX, "mean": HALF, "std": HALF} | changes)


def make_network(*extra: nn.Module) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return nn.Sequential(
            nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Conv2d(8, 12, 2, 2), *extra, nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )


def save(network: nn.Module, path: Path, kind: str) -> None:
    pixels = torch.zeros(2, 3, INPUT_PX, INPUT_PX)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about its own older formats
        if kind == TORCHSCRIPT:
            torch.jit.trace(network, pixels, check_trace=False).save(str(path))
        elif kind == TORCH_EXPORT:
            batch = {0: torch.export.Dim("batch", min=1, max=1024)}
            torch.export.save(torch.export.export(network, (pixels,), dynamic_shapes=(batch,)), path)
        else:
            path.write_bytes(onnx_bytes(network))


def _field(number: int, value: int | str | bytes) -> bytes:
    """One field of a protocol buffer."""

    def varint(rest: int) -> bytes:
        return bytes([rest]) if rest < 128 else bytes([rest & 127 | 128]) + varint(rest >> 7)

    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def onnx_bytes(network: nn.Module, weights_file: str = "") -> bytes:
    """conv, relu, conv, mean over the map, as the ONNX format lays it out; no package is needed to write so little.

    `weights_file`: where the first kernel lies instead of in the model.
    """

    def tensor(name: str, value: Tensor) -> bytes:
        dims = b"".join(_field(1, size) for size in value.shape)
        data = _field(9, value.detach().numpy().tobytes())
        if weights_file and name == "0.weight":
            data = _field(13, _field(1, "location") + _field(2, weights_file)) + _field(14, 1)
        return _field(5, dims + _field(2, 1) + _field(8, name) + data)

    def node(kind: str, inputs: tuple[str, ...], output: str, stride: int = 0) -> bytes:
        attribute = _field(1, "strides") + _field(8, stride) * 2 + _field(20, 7)
        names = b"".join(_field(1, name) for name in inputs) + _field(2, output) + _field(4, kind)
        return _field(1, names + (_field(5, attribute) if stride else b""))

    def value(name: str, *sizes: int) -> bytes:
        dims = _field(1, _field(2, "batch")) + b"".join(_field(1, _field(1, size)) for size in sizes)
        return _field(1, name) + _field(2, _field(1, _field(1, 1) + _field(2, dims)))

    nodes = node("Conv", ("pixels", "0.weight", "0.bias"), "a", 4) + node("Relu", ("a",), "b")
    nodes += node("Conv", ("b", "2.weight", "2.bias"), "c", 2) + node("GlobalAveragePool", ("c",), "d")
    nodes += node("Flatten", ("d",), "features")
    tensors = b"".join(tensor(name, value) for name, value in network.state_dict().items())
    graph = nodes + _field(2, "network") + tensors
    graph += _field(11, value("pixels", 3, INPUT_PX, INPUT_PX)) + _field(12, value("features", 12))
    return _field(1, 8) + _field(8, _field(1, "") + _field(2, 13)) + _field(7, graph)


@pytest.fixture(params=[TORCHSCRIPT, TORCH_EXPORT, ONNX])
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    if request.param == ONNX and find_spec("openvino") is None:
        pytest.skip("the extra `openvino` is not installed")
    path = tmp_path / f"model{SUFFIX[request.param]}"
    save(make_network().eval(), path, request.param)
    return request.param, path


def test_the_features_are_those_of_the_network_that_was_saved(saved: tuple[str, Path], noisy_tiles: Tensor) -> None:
    kind, path = saved
    file, runtime = own(path), "openvino" if kind == ONNX else "torch"
    card = encoder_card("own", weights=file, runtime=runtime)
    assert (card.id, card.dim, card.network, card.revision) == ("own", 12, {"format": kind}, "")
    assert (card.transform["input_px"], card.transform["mean"]) == (INPUT_PX, list(HALF))
    assert str(path.parent) not in card.to_json()
    assert path.name not in card.to_json()
    encoder = load_encoder_for(card, weights=file)
    with torch.inference_mode():
        expected = make_network().eval()(TileTransform(card.transform)(noisy_tiles))
    features = encoder(noisy_tiles)
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(encoder(noisy_tiles[4:5])[0], features[4])
    assert num_weight_bytes(card, weights=file) == path.stat().st_size


def test_a_stored_card_needs_the_same_file_and_brings_its_own_transform(tmp_path: Path) -> None:
    path = tmp_path / "model.ts"
    save(make_network().eval(), path, TORCHSCRIPT)
    card = encoder_card("own", weights=own(path))
    assert card_found_here(card, weights=OwnFile(path=str(path))) == card
    assert encoder_card("own", weights=own(path, std=(0.25, 0.25, 0.25))).identity() != card.identity()
    save(make_network(nn.ReLU()).eval(), tmp_path / "other.ts", TORCHSCRIPT)
    with pytest.raises(EncoderError, match=f"expected {card.weights_sha256}"):
        load_encoder_for(card, weights=own(tmp_path / "other.ts"))
    for weights in (None, str(path)):
        with pytest.raises(EncoderError, match="encoder_file="):
            load_encoder_for(card, weights=weights)
    with pytest.raises(EncoderError, match="encoder=own"):
        encoder_card("hed-texture", weights=own(path))


class Normalising(nn.Module):
    """By its batch, as a network that was saved in training mode does."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(0, keepdim=True)) / (x.var(0, unbiased=False, keepdim=True) + 1e-3).sqrt()


class Drawing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.rand_like(x)


class Dividing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / (x - x)


@pytest.mark.parametrize(
    ("part", "complaint"), [(Normalising, "tiles beside it"), (Drawing, "call to call"), (Dividing, "not finite")]
)
def test_features_that_depend_on_other_tiles_or_chance_are_refused(
    tmp_path: Path, part: Callable[[], nn.Module], complaint: str
) -> None:
    path = tmp_path / "model.ts"
    save(make_network(part()).eval(), path, TORCHSCRIPT)
    card = encoder_card("own", weights=own(path))
    with pytest.raises(EncoderError, match=complaint):
        load_encoder_for(card, weights=own(path))


@pytest.mark.parametrize(
    ("network", "complaint"),
    [
        (nn.Conv2d(3, 8, 4, 4), r"gives \(8, 8, 8, 8\)"),
        (nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (1, -1))), r"gives \(1, "),
        (nn.Conv2d(4, 8, 4, 4), "does not run"),
    ],
)
def test_a_file_that_gives_no_row_of_features_for_a_tile_is_refused(
    tmp_path: Path, network: nn.Module, complaint: str
) -> None:
    path = tmp_path / "model.ts"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(network.eval()).save(str(path))
    with pytest.raises(EncoderError, match=complaint):
        encoder_card("own", weights=own(path))


@pytest.mark.parametrize("text", [b"", b"PK\x03\x04 broken", b"not a model"])
@pytest.mark.parametrize("name", ["model.ts", "model.pt2", "model.onnx"])
def test_a_damaged_file_is_an_encoder_error(tmp_path: Path, name: str, text: bytes) -> None:
    (tmp_path / name).write_bytes(text)
    with pytest.raises(EncoderError):
        encoder_card("own", weights=own(tmp_path / name), runtime="openvino" if name.endswith("onnx") else "torch")


def test_a_file_of_weights_alone_is_no_encoder(tmp_path: Path) -> None:
    torch.save(make_network().state_dict(), tmp_path / "weights.pt")
    with pytest.raises(EncoderError, match="encoder_weights="):
        file_format(tmp_path / "weights.pt")
    with pytest.raises(EncoderError, match="no file"):
        file_format(tmp_path / "gone.ts")


def test_each_format_has_its_runtime(saved: tuple[str, Path]) -> None:
    kind, path = saved
    for runtime in ["torch", "openvino_bf16"] if kind == ONNX else ["openvino"]:
        with pytest.raises(EncoderError, match="set encoder_runtime="):
            encoder_card("own", weights=own(path), runtime=runtime)


def test_an_own_file_is_plain_and_a_transform_of_a_card_goes_into_it() -> None:
    file = OwnFile(path="x.ts")
    transform = {"input_px": 96, "interpolation": "bicubic", "mean": [0.1, 0.2, 0.3], "std": [1.0, 1.0, 1.0]}
    other = file.with_transform(transform | {"crop": "none", "antialias": True})
    assert dataclasses.astuple(other) == ("x.ts", 96, (0.1, 0.2, 0.3), (1.0, 1.0, 1.0), "bicubic")


@pytest.mark.skipif(find_spec("openvino") is None, reason="the extra `openvino` is not installed")
def test_weights_beside_an_onnx_file_are_not_taken_since_no_sha256_covers_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = make_network().eval()
    (tmp_path / "weights.bin").write_bytes(network.state_dict()["0.weight"].numpy().tobytes())
    (tmp_path / "model.onnx").write_bytes(onnx_bytes(network, "weights.bin"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EncoderError, match="in other files"):
        encoder_card("own", weights=own(Path("model.onnx")), runtime="openvino")
    data = onnx_bytes(network)
    assert not names_other_files(data)
    for end in (1, 40, len(data) - 3):
        with pytest.raises(EncoderError, match="damaged"):
            names_other_files(data[:end])
