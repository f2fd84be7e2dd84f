import dataclasses

import pytest
import torch
from torch import Tensor, nn

from mhim_core.embed.card import EncoderCard
from mhim_core.embed.encoder import OverlappingEncoder, TileEncoder, TorchEncoder
from mhim_core.embed.registry import encoder_card
from mhim_core.errors import EncoderError


def test_a_feature_does_not_depend_on_batch_mates_or_order(any_encoder: TileEncoder, noisy_tiles: Tensor) -> None:
    tiles = noisy_tiles[:11]
    whole = any_encoder(tiles)
    assert whole.shape == (11, any_encoder.card.dim)
    assert torch.equal(any_encoder(tiles.flip(0)).flip(0), whole)
    for sizes in ([1, 10], [3, 8]):
        parts = [any_encoder(part) for part in tiles.split(sizes)]
        assert torch.equal(torch.cat(parts), whole)


def test_a_feature_does_not_depend_on_the_threads_around(any_encoder: TileEncoder, noisy_tiles: Tensor) -> None:
    threads_before = torch.get_num_threads()
    try:
        features = []
        for num_threads in (1, 3):
            torch.set_num_threads(num_threads)
            features.append(any_encoder(noisy_tiles[:8]))
            assert torch.get_num_threads() == num_threads
        assert torch.equal(*features)
    finally:
        torch.set_num_threads(threads_before)


def test_features_are_float32_finite_and_without_gradient(any_encoder: TileEncoder, noisy_tiles: Tensor) -> None:
    features = any_encoder(noisy_tiles[:3])
    assert features.dtype == torch.float32
    assert torch.isfinite(features).all()
    assert not features.requires_grad


def test_no_tiles_give_no_features(any_encoder: TileEncoder) -> None:
    assert any_encoder(torch.zeros(0, 64, 64, 3, dtype=torch.uint8)).shape == (0, any_encoder.card.dim)


def test_threads_are_restored_after_an_error(noisy_tiles: Tensor) -> None:
    threads_before = torch.get_num_threads()
    seen: list[int] = []

    class Failing(nn.Module):
        def forward(self, tiles: Tensor) -> Tensor:
            seen.append(torch.get_num_threads())
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        TorchEncoder(make_card(3, num_threads=threads_before + 1), Failing())(noisy_tiles)
    assert seen == [threads_before + 1]
    assert torch.get_num_threads() == threads_before


def test_every_forward_pass_has_the_cards_batch_size(noisy_tiles: Tensor) -> None:
    sizes: list[int] = []

    class Recorder(nn.Module):
        def forward(self, tiles: Tensor) -> Tensor:
            sizes.append(len(tiles))
            return tiles.float().mean((1, 2))

    features = TorchEncoder(make_card(3, batch_size=8), Recorder())(noisy_tiles)
    assert sizes == [8, 8, 8]
    torch.testing.assert_close(features, noisy_tiles.float().mean((1, 2)))


@pytest.fixture
def small_network() -> nn.Module:
    """Tiles → (b, 16), of convolution and linear layer: what autocast computes in fewer bits."""
    torch.manual_seed(0)

    class Pixels(nn.Module):
        def forward(self, tiles: Tensor) -> Tensor:
            return tiles.permute(0, 3, 1, 2).float() / 255

    return nn.Sequential(
        Pixels(), nn.Conv2d(3, 32, 7, 4), nn.GELU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, 16)
    )


def test_fewer_bits_are_a_precision_of_their_own_and_near_float32(
    small_network: nn.Module, noisy_tiles: Tensor
) -> None:
    whole = TorchEncoder(make_card(16), small_network)(noisy_tiles)
    encoder = TorchEncoder(dataclasses.replace(make_card(16), precision="bfloat16"), small_network)
    rounded = encoder(noisy_tiles)
    assert rounded.dtype == torch.float32
    error = (rounded - whole).norm(dim=1) / whole.norm(dim=1)
    assert 1e-5 < float(error.max()) < 0.05
    assert torch.equal(torch.cat([encoder(part) for part in noisy_tiles.split([3, 9, 9])]), rounded)
    assert torch.equal(TorchEncoder(make_card(16), small_network)(noisy_tiles), whole), "the network is as it was"


def test_a_network_that_fewer_bits_change_is_refused() -> None:
    """The difference of two large numbers that bfloat16 rounds away."""

    class Cancelling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 1, bias=False)
            self.linear.weight = nn.Parameter(torch.tensor([[1.0, -1.0]]))

        def forward(self, tiles: Tensor) -> Tensor:
            mean = tiles.float().mean((1, 2, 3))[:, None]
            pair = torch.cat([1e4 + mean, torch.full_like(mean, 1e4)], dim=1)
            return self.linear(pair).repeat(1, 2)

    with pytest.raises(EncoderError, match="not the same network"):
        TorchEncoder(dataclasses.replace(make_card(2), precision="bfloat16"), Cancelling())


def test_what_is_started_can_be_waited_for_later(any_encoder: TileEncoder, noisy_tiles: Tensor) -> None:
    assert isinstance(any_encoder, OverlappingEncoder)
    waits = [any_encoder.start(part) for part in noisy_tiles[:12].split(5)]
    assert torch.equal(torch.cat([wait() for wait in waits]), any_encoder(noisy_tiles[:12]))


def test_a_network_that_does_not_match_its_card_is_refused(noisy_tiles: Tensor) -> None:
    with pytest.raises(EncoderError, match=r"shape \(8, 96, 96, 3\)"):
        TorchEncoder(make_card(3), nn.Identity())(noisy_tiles)


def test_cuda_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    card = encoder_card("hed-texture", device="cuda")
    with pytest.raises(EncoderError, match="no CUDA device"):
        TorchEncoder(card, nn.Identity())


def make_card(dim: int, batch_size: int = 8, num_threads: int = 2) -> EncoderCard:
    return EncoderCard(
        id="test",
        source="",
        weights_sha256="",
        revision="",
        licence="",
        pooling="avg",
        network={},
        transform={},
        dim=dim,
        batch_size=batch_size,
        num_threads=num_threads,
    )
