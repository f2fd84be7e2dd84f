"""The stored tables, the planes, and the sample of tiles."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from mhim_core.errors import InputError, IntegrityError
from mhim_core.hardness import table as tables
from mhim_core.hardness.plane import has_umap, principal_plane, umap_plane
from mhim_core.hardness.table import (
    BagFeatures,
    bags_schema,
    decode_bags,
    decode_features,
    encode_features,
    encode_rows,
)
from mhim_core.hardness.tile_sample import sample_tiles

FEATURES = BagFeatures(["a", "b"], ["p", "q"], ["no", "yes"], np.array([[0.5, 1.0], [2.0, -3.25]]))


def test_features_read_back_as_they_were_written() -> None:
    read = decode_features(encode_features(FEATURES), "here")
    assert read[:3] == FEATURES[:3]
    assert (read.x_ND == FEATURES.x_ND).all()


def test_a_bag_that_no_model_held_out_has_no_type() -> None:
    row = dict.fromkeys(bags_schema().names) | {"bag_id": "a", "label": "no", "feature_type": "rare", "num_models": 0}
    (read,) = decode_bags(encode_rows([row], bags_schema()), "here")
    assert (read["type"], read["feature_type"], read["rank"]) == (None, "rare", None)


def test_another_file_and_a_later_version_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode_features(FEATURES)
    with pytest.raises(IntegrityError, match="lacks"):
        decode_bags(data, "here")
    with pytest.raises(IntegrityError, match="here"):
        decode_features(b"no parquet", "here")
    monkeypatch.setattr(tables, "VERSION", tables.VERSION + 1)
    later = encode_features(FEATURES)
    monkeypatch.undo()
    with pytest.raises(IntegrityError, match="version 2"):
        decode_features(later, "here")
    assert pq.read_schema(__import__("pyarrow").BufferReader(data)).metadata[b"mhim.hardness"] == b"1"


@pytest.mark.parametrize("shape", [(30, 4), (6, 40)])
def test_the_plane_is_that_of_the_largest_spread_whichever_side_is_longer(shape: tuple[int, int]) -> None:
    x_ND = np.random.default_rng(1).normal(size=shape)
    plane_N2 = principal_plane(x_ND)
    scaled_ND = (x_ND - x_ND.mean(axis=0)) / x_ND.std(axis=0)
    values = np.linalg.svd(scaled_ND, compute_uv=False)
    assert np.linalg.norm(plane_N2, axis=0) == pytest.approx(values[:2])
    assert plane_N2[:, 0] @ plane_N2[:, 1] == pytest.approx(0, abs=1e-8)


def test_the_sign_of_an_axis_does_not_depend_on_the_order_of_the_points() -> None:
    x_ND = np.random.default_rng(2).normal(size=(20, 5))
    assert principal_plane(x_ND[::-1])[::-1] == pytest.approx(principal_plane(x_ND), abs=1e-9)


def test_points_on_a_line_have_no_second_coordinate() -> None:
    assert (principal_plane(np.arange(5.0)[:, None] @ np.ones((1, 3)))[:, 1] == 0).all()


def test_umap_is_refused_with_a_sentence_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mhim_core.hardness.plane.find_spec", lambda name: None)
    assert not has_umap()
    with pytest.raises(InputError, match="umap-learn"):
        umap_plane(np.zeros((9, 2)), 5)


def test_a_slide_s_sample_is_its_own() -> None:
    chosen = sample_tiles("a", 100, 10)
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert chosen.tolist() == sample_tiles("a", 100, 10).tolist() != sample_tiles("b", 100, 10).tolist()
    assert sample_tiles("a", 3, 10).tolist() == [0, 1, 2]
