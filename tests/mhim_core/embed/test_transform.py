import numpy as np
import pytest
import torch
from PIL import Image

from mhim_core.embed.transform import TileTransform, transform_facts
from mhim_core.errors import EncoderError

HALF = [0.5, 0.5, 0.5]


def test_a_tile_of_the_right_size_is_only_normalised(noisy_tiles: torch.Tensor) -> None:
    transform = TileTransform(transform_facts(96, [0.1, 0.2, 0.3], [0.5, 0.25, 1.0]))
    expected = (noisy_tiles.double() / 255 - torch.tensor([0.1, 0.2, 0.3])) / torch.tensor([0.5, 0.25, 1.0])
    transformed = transform(noisy_tiles).double().permute(0, 2, 3, 1)
    torch.testing.assert_close(transformed, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_flat_tile_stays_flat_whatever_its_size(interpolation: str) -> None:
    transform = TileTransform(transform_facts(64, HALF, HALF, interpolation))
    transformed = transform(torch.full((2, 100, 100, 3), 200, dtype=torch.uint8))
    assert transformed.shape == (2, 3, 64, 64)
    torch.testing.assert_close(transformed, torch.full_like(transformed, (200 / 255 - 0.5) / 0.5), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("interpolation", "filter_"),
    [("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)],
)
def test_resizing_agrees_with_pillow_to_its_rounding(
    noisy_tiles: torch.Tensor, interpolation: str, filter_: Image.Resampling
) -> None:
    transform = TileTransform(transform_facts(84, [0.0] * 3, [1.0] * 3, interpolation))
    transformed = 255 * transform(noisy_tiles).permute(0, 2, 3, 1).numpy()
    expected = np.stack([np.asarray(Image.fromarray(tile.numpy()).resize((84, 84), filter_)) for tile in noisy_tiles])
    assert np.abs(np.clip(transformed, 0, 255) - expected).max() < 2.0


def test_the_border_of_a_tile_is_seen() -> None:
    tile = torch.zeros(1, 256, 256, 3, dtype=torch.uint8)
    framed = tile.clone()
    framed[:, :4] = 255
    transform = TileTransform(transform_facts(224, HALF, HALF))
    assert not torch.equal(transform(tile), transform(framed))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((0, HALF, HALF), "input_px"),
        ((100_000, HALF, HALF), "input_px"),
        ((224, HALF, [0.5, 0.0, 0.5]), "mean and std"),
        ((224, [0.5], HALF), "mean and std"),
        ((224, HALF, HALF, "nearest"), "nearest"),
    ],
)
def test_values_no_network_can_mean_are_refused(arguments: tuple, complaint: str) -> None:
    with pytest.raises(EncoderError, match=complaint):
        transform_facts(*arguments)


def test_a_stored_crop_is_refused_rather_than_ignored() -> None:
    with pytest.raises(EncoderError, match="crop"):
        TileTransform(transform_facts(224, HALF, HALF) | {"crop": "center"})
