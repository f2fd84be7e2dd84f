"""The tree of a slide's tiles, against plain definitions of its edges, its weight and its orders."""

import sys

import numpy as np
import pytest

from mhim_core.mil.tissue_tree import NUM_NEIGHBOURS, TissueTree, tissue_tree


def slide(num: int, seed: int, width: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Tiles at random places of a grid, top to bottom: many of their distances tie."""
    draw = np.random.default_rng(seed)
    places = np.sort(draw.choice(width * width * 4, num, replace=False))
    coords = np.stack([places % (2 * width), places // (2 * width)], axis=1) * 256
    return draw.normal(size=(num, 6)).astype(np.float16), coords.astype(np.int32)


def nearest(coords: np.ndarray, index: int) -> list[int]:
    distances = ((coords.astype(float) - coords[index]) ** 2).sum(axis=1)
    others = sorted((distance, other) for other, distance in enumerate(distances) if other != index)
    return [other for _, other in others[:NUM_NEIGHBOURS]]


def reference(features: np.ndarray, coords: np.ndarray) -> TissueTree:
    """Of tiles in stored order: Kruskal's algorithm, then recursion."""
    num, x = len(features), features.astype(np.float64)
    edges = {tuple(sorted((index, other))) for index in range(num) for other in nearest(coords, index)}

    def weight(edge: tuple[int, int]) -> float:
        first, second = x[list(edge)]
        return float(np.float32(1 - (first * second).sum() / np.sqrt((first * first).sum() * (second * second).sum())))

    group, below = list(range(num)), {index: [] for index in range(num)}  # type: dict[int, list[int]]
    for first, second in sorted(edges, key=lambda edge: (weight(edge), edge)):
        if group[first] != group[second]:
            group = [group[first] if name == group[second] else name for name in group]
            below[first].append(second)
            below[second].append(first)
    parent, pre, post, breadth = np.full(num, -1), [], [], []  # type: ignore[var-annotated]

    def visit(index: int, above: int) -> None:
        parent[index] = above
        pre.append(index)
        for other in sorted(below[index]):
            if other != above:
                visit(other, index)
        post.append(index)

    for root in range(num):
        if root in pre:
            continue
        visit(root, -1)
        queue = [root]
        for index in queue:
            queue += [other for other in sorted(below[index]) if other != parent[index]]
        breadth += queue
    orders = np.array([range(num), pre, post, breadth])
    return TissueTree(np.argsort(orders, axis=1), parent)


@pytest.mark.parametrize(("num", "seed"), [(1, 0), (2, 0), (3, 1), (7, 2), (40, 3), (90, 4), (150, 5)])
def test_the_tree_is_kruskals_and_its_orders_are_the_recursive_ones(num: int, seed: int) -> None:
    features, coords = slide(num, seed)
    expected, tree = reference(features, coords), tissue_tree(features, coords)
    assert np.array_equal(tree.parent_N, expected.parent_N)
    assert np.array_equal(tree.rank_PN, expected.rank_PN)


def test_pieces_of_tissue_far_from_each_other_are_trees_of_their_own() -> None:
    features, coords = slide(60, 6)
    both = np.concatenate([coords, coords + np.array([0, 10**6])]).astype(np.int32)
    tree = tissue_tree(np.concatenate([features, features]), both)
    alone = tissue_tree(features, coords)
    assert np.array_equal(tree.rank_PN[:, :60], alone.rank_PN)
    assert np.array_equal(tree.rank_PN[:, 60:], alone.rank_PN + 60)
    assert (tree.parent_N == -1).sum() == 2 * (alone.parent_N == -1).sum()


def test_the_same_tiles_in_another_order_make_the_same_tree() -> None:
    features, coords = slide(120, 7)
    features[30:60] = features[30]  # weights that tie
    order = np.random.default_rng(0).permutation(120)
    tree, moved = tissue_tree(features, coords), tissue_tree(features[order], coords[order])
    assert np.array_equal(moved.rank_PN, tree.rank_PN[:, order])
    above = np.where(moved.parent_N < 0, -1, order[moved.parent_N])
    assert np.array_equal(above, tree.parent_N[order])


def test_tiles_at_one_place_and_tiles_without_features_are_joined_all_the_same() -> None:
    features, coords = np.zeros((50, 4), np.float16), np.zeros((50, 2), np.int32)
    tree = tissue_tree(features, coords)
    assert (tree.parent_N == -1).sum() == 1
    assert np.array_equal(np.sort(tree.rank_PN, axis=1), np.tile(np.arange(50), (4, 1)))


def test_without_scipy_the_tree_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    features, coords = slide(90, 8)
    tree = tissue_tree(features, coords)
    monkeypatch.setitem(sys.modules, "scipy.spatial", None)
    bare = tissue_tree(features, coords)
    assert np.array_equal(bare.rank_PN, tree.rank_PN)
    assert np.array_equal(bare.parent_N, tree.parent_N)
