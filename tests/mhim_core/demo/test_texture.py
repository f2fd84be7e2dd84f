import numpy as np
import pytest

from mhim_core.demo.texture import (
    EPITHELIAL,
    FIBROBLAST,
    LOUD_TUMOUR,
    LYMPHOCYTE,
    QUIET_TUMOUR,
    NucleusKind,
    fibres,
    glands,
    nuclei,
    stamp,
)


def areas_px(kind: NucleusKind) -> np.ndarray:
    return np.array([(sprite > 0.3 * kind.darkness).sum() for sprite in nuclei(kind)])


@pytest.mark.parametrize("kind", [FIBROBLAST, LYMPHOCYTE, EPITHELIAL])
def test_loud_nuclei_are_larger_and_more_varied_and_quiet_ones_are_in_between(kind: NucleusKind) -> None:
    loud, quiet, other = areas_px(LOUD_TUMOUR), areas_px(QUIET_TUMOUR), areas_px(kind)
    assert np.median(loud) > 1.3 * np.median(quiet) > 1.3 * 1.05 * np.median(other)
    assert loud.std() / loud.mean() > 1.3 * max(sizes.std() / sizes.mean() for sizes in (quiet, other))
    assert QUIET_TUMOUR.darkness <= max(FIBROBLAST.darkness, LYMPHOCYTE.darkness, EPITHELIAL.darkness)


def test_fibres_are_seamless_and_run_in_four_directions() -> None:
    textures = fibres()
    inside = np.abs(np.diff(textures, axis=1)).mean()
    assert np.abs(textures[:, 0] - textures[:, -1]).mean() < 1.5 * inside
    across, along = (np.abs(np.diff(textures, axis=axis)).mean((1, 2)) for axis in (1, 2))
    assert across[0] > 1.5 * along[0]
    assert along[2] > 1.5 * across[2]


def test_a_gland_has_a_pale_lumen_within_a_ring_of_nuclei() -> None:
    for gland in glands():
        middle = gland.opacity.shape[0] // 2
        assert gland.opacity[middle, middle] == 1
        assert gland.haematoxylin[middle, middle] < 0.05 < 0.5 < gland.haematoxylin.max()


@pytest.mark.parametrize("place", [(0, 0), (19, 9), (-30, 5), (5, 60), (10, 5)])
def test_a_stamp_over_the_edge_is_cut(place: tuple[int, int]) -> None:
    canvas, sprite = np.zeros((10, 20), np.float32), np.ones((5, 5), np.float32)
    stamp(canvas, sprite, *place)
    y, x = np.mgrid[0:10, 0:20]
    expected = (np.abs(x - place[0]) <= 2) & (np.abs(y - place[1]) <= 2)
    assert np.array_equal(canvas > 0, expected)
