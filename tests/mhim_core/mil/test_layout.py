"""Layouts: what a subset, tokens and several slides make of orders and trees."""

import numpy as np
import pytest
import torch

from mhim_core.mil.layout import TREE_BESIDE, Layout, tree_array

CPU = torch.device("cpu")


def arrays(num: int, seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    places = np.sort(draw.choice(20 * 20, num, replace=False))
    coords = np.stack([places % 20, places // 20], axis=1).astype(np.int32)
    return tree_array(draw.normal(size=(num, 5)).astype(np.float16), coords)


def layout(num: int = 60, seed: int = 0) -> Layout:
    return Layout.of_arrays([arrays(num, seed)])


def test_a_path_goes_there_and_its_post_order_back() -> None:
    path = Layout.path(5, CPU)
    assert path.parent_N.tolist() == [-1, 0, 1, 2, 3]
    assert path.orders().tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [0, 1, 2, 3, 4]]


@pytest.mark.parametrize("seed", range(4))
def test_a_subset_keeps_the_orders_and_hangs_every_row_below_its_nearest_kept_ancestor(seed: int) -> None:
    whole = layout(seed=seed)
    rows = torch.randperm(60, generator=torch.Generator().manual_seed(seed))[: 60 - 13 * seed]
    part = whole.select(rows)
    kept = set(rows.tolist())
    for order, own in zip(whole.orders().tolist(), part.orders(), strict=True):
        assert rows[own].tolist() == [row for row in order if row in kept]
    for index, row in enumerate(rows.tolist()):
        above = int(whole.parent_N[row])
        while above >= 0 and above not in kept:
            above = int(whole.parent_N[above])
        assert int(part.parent_N[index]) == (rows.tolist().index(above) if above >= 0 else -1)


def test_all_rows_in_order_are_the_same_layout_and_selecting_twice_is_selecting_once() -> None:
    whole, rows = layout(), torch.arange(60).flip(0)[::2]
    for name in ("rank_PN", "parent_N"):
        assert torch.equal(getattr(whole.select(torch.arange(60)), name), getattr(whole, name))
        twice = whole.select(rows).select(torch.tensor([3, 1, 20]))
        assert torch.equal(getattr(twice, name), getattr(whole.select(rows[[3, 1, 20]]), name))


def test_tokens_come_last_in_every_order_and_have_no_neighbours() -> None:
    whole = layout(7)
    longer = whole.with_tokens(2)
    assert longer.num == 9
    assert torch.equal(longer.orders()[:, :7], whole.orders())
    assert longer.orders()[:, 7:].tolist() == [[7, 8]] * 4
    assert longer.parent_N[7:].tolist() == [-1, -1]
    assert int(whole.parent_N.min()) == -1
    assert int(longer.parent_N.max()) < 7


def test_no_edge_joins_two_slides_of_a_patient() -> None:
    first, second = arrays(20, 1), arrays(30, 2)
    both = Layout.of_arrays([first, second])
    alone = [Layout.of_arrays([array]) for array in (first, second)]
    assert torch.equal(both.select(torch.arange(20)).rank_PN, alone[0].rank_PN)
    assert torch.equal(both.select(torch.arange(20, 50)).rank_PN, alone[1].rank_PN)
    assert torch.equal(both.select(torch.arange(20, 50)).parent_N, alone[1].parent_N)
    assert int((both.parent_N[20:] >= 0).sum()) == int((both.parent_N[20:] >= 20).sum())


def test_what_is_kept_beside_the_features_is_five_numbers_a_tile() -> None:
    assert TREE_BESIDE.width == arrays(9, 0).shape[1] == 5
    assert arrays(9, 0).dtype == np.int32
