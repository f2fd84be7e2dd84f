import numpy as np
import pytest

from mhim_core.slides.mask import TissueMask


def naive_share(mask: np.ndarray, left: float, right: float, top: float, bottom: float) -> float:
    """Area of tissue pixels within a rectangle, pixel by pixel."""
    total = 0.0
    for row, column in np.argwhere(mask):
        width = max(0.0, min(right, column + 1) - max(left, column))
        total += width * max(0.0, min(bottom, row + 1) - max(top, row))
    return total / ((right - left) * (bottom - top))


@pytest.mark.parametrize("seed", range(5))
def test_the_share_of_a_fractional_rectangle_is_its_exact_area(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((7, 9)) < 0.5
    left, top = rng.uniform(0, 9, 4), rng.uniform(0, 7, 3)
    right, bottom = left + rng.uniform(0.1, 6, 4), top + rng.uniform(0.1, 6, 3)
    shares = TissueMask(is_tissue=mask, mask_mpp=8.0).share_in_grid(left, right, top, bottom)
    expected = [
        [naive_share(mask, *sides, *ends) for sides in zip(left, right, strict=True)]
        for ends in zip(top, bottom, strict=True)
    ]
    assert np.allclose(shares, expected, atol=1e-12)


def test_full_is_exactly_one_and_outside_is_nothing() -> None:
    mask = TissueMask(is_tissue=np.ones((10, 10), bool), mask_mpp=8.0)
    edges = np.array([0.3, 4.7, 9.5, 12.0])
    shares = mask.share_in_grid(edges, edges + 1, edges, edges + 1)
    assert shares[0, 0] == 1.0
    assert shares[2, 2] == pytest.approx(0.25)
    assert shares[3].max() == 0.0


def test_a_mask_of_one_pixel_works() -> None:
    mask = TissueMask(is_tissue=np.ones((1, 1), bool), mask_mpp=8.0)
    zero = np.zeros(1)
    assert mask.share_in_grid(zero, zero + 2, zero, zero + 2)[0, 0] == pytest.approx(0.25)
    assert mask.area_um2 == 64.0
