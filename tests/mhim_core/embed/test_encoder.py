import pytest
import torch
from torch import Tensor, nn

from mhim_core.embed.card import EncoderCard
from mhim_core.embed.encoder import TileEncoder, TorchEncoder
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
