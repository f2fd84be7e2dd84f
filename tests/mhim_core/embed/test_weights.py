import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mhim_core.embed.weights import check_sha256, read_metadata, read_tensors, weights_sha256
from mhim_core.errors import EncoderError


@pytest.mark.parametrize("nested", [False, True])
def test_tensors_of_a_torch_file_are_read_also_below_state_dict(tmp_path: Path, nested: bool) -> None:
    tensors = {"a": torch.arange(3.0)}
    torch.save({"state_dict": tensors, "epoch": 3} if nested else tensors, tmp_path / "w.pth")
    assert torch.equal(read_tensors(tmp_path / "w.pth")["a"], tensors["a"])


def test_metadata_of_safetensors_is_read_without_its_tensors(tmp_path: Path) -> None:
    save_file({"a": torch.arange(3.0)}, tmp_path / "w.safetensors", metadata={"mean": "0.5,0.5,0.5"})
    assert read_metadata(tmp_path / "w.safetensors") == {"mean": "0.5,0.5,0.5"}
    assert torch.equal(read_tensors(tmp_path / "w.safetensors")["a"], torch.arange(3.0))


def test_a_file_without_metadata_states_nothing(tmp_path: Path) -> None:
    save_file({"a": torch.arange(3.0)}, tmp_path / "w.safetensors")
    assert read_metadata(tmp_path / "w.safetensors") == {}
    assert read_metadata(tmp_path / "w.pth") == {}


def test_code_in_a_weights_file_is_never_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Malicious:
        def __reduce__(self) -> tuple:
            return os.system, (f"touch {canary}",)

    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"a": Malicious()}))
    torch.save({"a": Malicious()}, tmp_path / "zip.pth")
    for name in ("plain.pth", "zip.pth"):
        with pytest.raises(EncoderError, match="tensors alone"):
            read_tensors(tmp_path / name)
    assert not canary.exists()


@pytest.mark.parametrize("data", [b"", b"abc", b"\xff" * 64, (20).to_bytes(8, "little") + b"{}"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_broken_weights_file_is_an_encoder_error(tmp_path: Path, data: bytes, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(data)
    with pytest.raises(EncoderError, match=r"w\.(safetensors|pth)"):
        read_tensors(path)
    if suffix == ".safetensors":
        with pytest.raises(EncoderError, match="no safetensors file"):
            read_metadata(path)


def test_what_is_not_named_tensors_is_refused(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(EncoderError, match="other than named tensors"):
        read_tensors(tmp_path / "list.pth")
    with pytest.raises(EncoderError, match="not one of the formats"):
        read_tensors(tmp_path / "w.onnx")


def test_one_flipped_byte_is_another_file(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(bytes(1000))
    expected = weights_sha256(path)
    check_sha256(path, expected, "x")
    path.write_bytes(bytes(999) + b"\x01")
    with pytest.raises(EncoderError, match=f"encoder x: .* expected {expected}"):
        check_sha256(path, expected, "x")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"gone\.pth"):
        weights_sha256(tmp_path / "gone.pth")


def test_a_pipe_in_place_of_weights_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w.safetensors")
    for read in (weights_sha256, read_metadata):
        with pytest.raises(EncoderError, match=r"w\.safetensors: it is a pipe"):
            read(tmp_path / "w.safetensors")
