"""The channel reductions give numpy's own bits."""

import numpy as np
import pytest

from mhim_core.slides.channels import brightest, channel_mean, darkest


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_each_reduction_is_numpy_s_over_the_last_axis_to_the_last_bit(dtype: type) -> None:
    pixels = (np.random.default_rng(5).random((301, 203, 3)) * 255).astype(dtype)
    for ours, numpys in (
        (brightest(pixels), pixels.max(axis=-1)),
        (darkest(pixels), pixels.min(axis=-1)),
        (channel_mean(pixels), pixels.mean(axis=-1)),
    ):
        assert ours.dtype == numpys.dtype
        np.testing.assert_array_equal(ours, numpys)
    np.testing.assert_array_equal(pixels, (np.random.default_rng(5).random((301, 203, 3)) * 255).astype(dtype))
