"""Bags kept on a worker's device: the source's bits, a bounded number of bytes, none kept twice."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from mhim_core.bags import BagReads
from mhim_core.train.device_bags import DeviceBags
from mhim_core.types import BagId

A, B = BagId("a"), BagId("b")
BYTES = 2 * 5 * 8


class HalfSource:
    """Two bags; counts its reads and what it was told to forget."""

    dim = 8

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.bags = {bag_id: torch.randn(5, 8, generator=generator).half() for bag_id in (A, B)}
        self.reads = BagReads()
        self.forgotten: list[BagId] = []

    def lengths(self) -> dict[BagId, int]:
        return {bag_id: len(features) for bag_id, features in self.bags.items()}

    def read(self, bag_id: BagId) -> torch.Tensor:
        return self.read_half(bag_id).float()

    def read_half(self, bag_id: BagId) -> torch.Tensor:
        self.reads += BagReads(memory=1)
        return self.bags[bag_id]

    def forget(self, bag_id: BagId) -> None:
        self.forgotten.append(bag_id)


def test_a_bag_is_copied_once_and_has_the_bits_of_the_source(device: torch.device) -> None:
    source, warnings = HalfSource(), list[str]()
    bags = DeviceBags(source, device, 2 * BYTES, warnings.append)
    for bag_id in (A, B, A, B, A):
        features = bags.read_half(bag_id)
        assert features.device.type == device.type
        assert torch.equal(features.cpu(), source.bags[bag_id])
    assert bags.reads == BagReads(device=3, memory=2, device_bytes=2 * BYTES)
    assert source.forgotten == [A, B]
    assert (bags.dim, bags.lengths(), warnings) == (8, {A: 5, B: 5}, [])


def test_what_has_no_room_comes_from_the_source_and_that_is_said_at_the_start(device: torch.device) -> None:
    source, warnings = HalfSource(), list[str]()
    bags = DeviceBags(source, device, 2 * BYTES - 1, warnings.append)
    assert len(warnings) == 1
    for bag_id in (A, B, A, B):
        assert torch.equal(bags.read_half(bag_id).cpu(), source.bags[bag_id])
    assert bags.reads == BagReads(device=1, memory=3, device_bytes=BYTES)
    assert source.forgotten == [A]


def test_a_device_that_turns_out_to_be_full_keeps_what_it_has(
    monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    source, warnings = HalfSource(), list[str]()
    bags = DeviceBags(source, device, 10 * BYTES, warnings.append)
    bags.read_half(A)
    to: Callable[..., Any] = torch.Tensor.to

    def full(tensor: torch.Tensor, *arguments: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(torch.Tensor, "to", full)
    for bag_id in (B, A, B):
        features = bags.read_half(bag_id)
        assert torch.equal(to(features, "cpu"), source.bags[bag_id])
    assert len(warnings) == 1
    assert bags.reads == BagReads(device=1, memory=3, device_bytes=BYTES)
