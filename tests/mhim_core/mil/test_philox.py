"""The same words as numpy's generator, from every device, and what is drawn from them."""

import sys
import types
import warnings

import numpy as np
import pytest
import torch

from mhim_core.mil.draws import Draws
from mhim_core.mil.philox import TORCH, checked_kernel, source_on, torch_at_least, torch_words
from mhim_core.types import BagId

KEYS = [0, 1, 2**31, 2**63, 2**64 - 1, 2**64, 2**127, 2**128 - 1, 0x0123456789ABCDEF_FEDCBA9876543210]
SIZES = [0, 1, 2, 3, 4, 5, 7, 8, 4 * 512 - 1, 4 * 512, 4 * 512 + 1, 10_001]
CARRIES = [1, 2**32 - 3, 2**63 - 2, 2**64 - 4, 2**64 - 2, 2**64 - 1, 2**128 - 3, 2**192 - 1, 2**256 - 2, 2**256 - 1]
MODULE = "mhim_core.mil.philox_triton"
CPU = torch.device("cpu")


def words_of_numpy(key: int, num_words: int, counter: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.Philox(key=key, counter=counter).random_raw(num_words).view(np.int64))


@pytest.mark.parametrize("key", KEYS)
def test_the_words_are_numpys_whatever_the_key_and_their_number(key: int, device: torch.device) -> None:
    for source in (TORCH, source_on(device)):
        for num_words in SIZES:
            words = source.words(key, num_words, device)
            assert words.device.type == device.type
            assert torch.equal(words.cpu(), words_of_numpy(key, num_words)), num_words


def test_the_words_of_many_keys_are_numpys(device: torch.device) -> None:
    for seed in range(100):
        upper, lower = np.random.Philox(key=seed).random_raw(2).tolist()
        key = (upper << 64) + lower
        assert torch.equal(torch_words(key, 33, device).cpu(), words_of_numpy(key, 33))


@pytest.mark.parametrize("counter", CARRIES)
def test_counters_carry_as_numpys_do(counter: int, device: torch.device) -> None:
    for key in KEYS[-2:]:
        words = torch_words(key, 30, device, counter)
        assert torch.equal(words.cpu(), words_of_numpy(key, 30, counter))


@pytest.mark.cuda
def test_on_a_gpu_the_words_come_from_triton() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checked_kernel(torch.device("cuda")).__module__ == MODULE


def wrong_words(key: int, num_words: int, device: torch.device) -> torch.Tensor:
    words = torch_words(key, num_words, device)
    words[-1] ^= 1
    return words


def without_compiler(key: int, num_words: int, device: torch.device) -> torch.Tensor:
    raise RuntimeError("Failed to find C compiler")


@pytest.mark.parametrize(
    ("kernel", "is_taken", "num_warnings"),
    [(torch_words, True, 0), (wrong_words, False, 1), (without_compiler, False, 1)],
)
def test_a_kernel_that_makes_other_words_or_none_is_left_with_a_warning(
    kernel: object, is_taken: bool, num_warnings: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType(MODULE)
    module.triton_words = kernel  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, MODULE, module)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        taken = checked_kernel(CPU)
    assert (taken is kernel) is is_taken
    assert len(caught) == num_warnings


def test_without_triton_there_is_no_kernel_and_nothing_to_warn_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)
    assert checked_kernel(CPU) is None


def on(device: torch.device) -> list[Draws]:
    """Draws of one key, from the device's own source and by torch's operations."""
    return [Draws(1, 2, BagId("a"), source=source) for source in (source_on(device), TORCH)]


class Numpys(Draws):
    """The raw words of a purpose, as unsigned numbers."""

    def raw(self, purpose: str, num_words: int) -> np.ndarray:
        return self._words(purpose, num_words, CPU).numpy().view(np.uint64)


@pytest.mark.parametrize(("rate", "unit"), [(0.25, "u1"), (0.5, "u1"), (255 / 256, "u1"), (0.1, "<u2"), (0.9, "<u2")])
@pytest.mark.parametrize("shape", [(1,), (3, 5), (8, 8), (7, 0), (129, 33)])
def test_what_is_kept_are_the_bytes_of_numpys_words_from_a_threshold_on(
    rate: float, unit: str, shape: tuple[int, ...], device: torch.device
) -> None:
    levels = 256 ** np.dtype(unit).itemsize
    raw = Numpys(1, 2, BagId("a")).raw("x", 1 + int(np.prod(shape)) // 4)
    noise = raw.view(unit)[: int(np.prod(shape))].reshape(shape)
    for draws in on(device):
        keep = draws.keep("x", shape, rate, device)
        assert keep.is_kept.device.type == device.type
        assert np.array_equal(keep.is_kept.cpu().numpy(), noise >= round(rate * levels))
        assert keep.scale == levels / (levels - round(rate * levels))


@pytest.mark.parametrize("num_bytes", [1, 2])
def test_every_threshold_is_reached_by_the_unsigned_numbers_from_it_on(num_bytes: int, device: torch.device) -> None:
    levels = 256**num_bytes
    numbers = np.arange(levels).astype(f"<u{num_bytes}")
    words = torch.from_numpy(numbers.view(np.int64)).to(device)
    for threshold in {1, 2, 127, 128, 129, levels // 2 - 1, levels // 2, levels // 2 + 1, levels - 1}:
        assert torch.equal(torch_at_least(words, num_bytes, threshold).cpu(), torch.from_numpy(numbers >= threshold))


@pytest.mark.parametrize("num_items", [1, 2, 100, 4099])
def test_an_order_is_that_of_numpys_words_as_unsigned_numbers(num_items: int, device: torch.device) -> None:
    expected = np.argsort(Numpys(1, 2, BagId("a")).raw("x", num_items), kind="stable")
    for draws in on(device):
        order = draws.permutation("x", num_items, device)
        assert order.device.type == device.type
        assert np.array_equal(order.cpu().numpy(), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rate", [0.25, 0.1])
def test_dropout_gives_the_same_bits_on_every_device(rate: float, dtype: torch.dtype, device: torch.device) -> None:
    x = torch.randn(37, 11, dtype=dtype)
    keep = Draws(1, 2, BagId("a")).keep("x", x.shape, rate)
    expected = x * torch.where(keep.is_kept, torch.tensor(keep.scale, dtype=dtype), torch.tensor(0, dtype=dtype))
    for draws in on(device):
        leaf = x.clone().to(device).requires_grad_()
        dropped = draws.dropout("x", leaf, rate)
        dropped.backward(x.to(device))
        assert torch.equal(dropped.detach().cpu(), expected)
        assert leaf.grad is not None
        assert torch.equal(leaf.grad.cpu(), expected)
