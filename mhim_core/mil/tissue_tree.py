"""A slide's tiles as a tree of neighbours, and the orders in which it is walked (MamMIL). NumPy, no torch.

Shapes: N tiles, D features, E edges. Nothing here depends on a model, so it is made once per slide. Whatever could tie
is decided by the tiles' places: rows are numbered from top to bottom and from left to right first, so that the same
tiles in another order make the same tree.
"""

from typing import NamedTuple

import numpy as np

TREE_NAME = "tissue-tree-1"
"""Of what is kept of it beside a slide's features; raised where other trees are made."""
NUM_NEIGHBOURS = 8
NUM_ORDERS = 4
_TIES = 8
"""How many more neighbours are asked for, since on a grid several are equally far."""
_EDGES_AT_ONCE = 4096


class TissueTree(NamedTuple):
    """A spanning tree of every connected piece of tissue, with its four orders."""

    rank_PN: np.ndarray
    """int32 (4, N): the place of every row in the stored order (from top to bottom, from left to right), in depth-first
    pre-order, depth-first post-order and breadth-first order."""
    parent_N: np.ndarray
    """int32 (N,): the row of every tile's parent; -1: it is a root."""


def tissue_tree(features: np.ndarray, coords_l0_px: np.ndarray) -> TissueTree:
    """The tree of N tiles with features (N, D) at x, y (N, 2).

    Each tile is joined to its 8 nearest neighbours, an edge's weight is 1 - cos of its tiles' features, and of each
    connected component the minimum spanning tree is kept. Its root is the first tile in stored order, and so are a
    tile's children sorted. Ties go to the edge of the tiles that come first.
    """
    num = len(features)
    stored = np.lexsort((np.arange(num), coords_l0_px[:, 0], coords_l0_px[:, 1]))
    edges = _neighbour_edges(coords_l0_px[stored].astype(np.float64))
    chosen = _lightest_first(edges, features, stored)
    walk = _walk(num, _spanning_edges(num, chosen))
    rank_PN = np.empty((NUM_ORDERS, num), np.int32)
    rank_PN[:, stored] = walk.rank_PN
    parent_N = np.full(num, -1, np.int32)
    has_parent = walk.parent_N >= 0
    parent_N[stored[has_parent]] = stored[walk.parent_N[has_parent]]
    return TissueTree(rank_PN, parent_N)


def _neighbour_edges(points: np.ndarray) -> np.ndarray:
    """(E, 2), the smaller index first, sorted: every pair of which one is among the other's nearest neighbours."""
    num = len(points)
    num_near = min(NUM_NEIGHBOURS, num - 1)
    if num_near < 1:
        return np.empty((0, 2), np.int64)
    try:
        from scipy.spatial import cKDTree
    except ImportError:  # a bare machine: the same pairs, in quadratic time
        pairs = np.concatenate([_nearest(points, index, num_near) for index in range(num)])
        return np.unique(np.sort(pairs, axis=1), axis=0)
    num_asked = min(num_near + 1 + _TIES, num)
    distances, near = cKDTree(points).query(points, k=num_asked)
    order = np.lexsort((near, distances), axis=1)
    distances, near = np.take_along_axis(distances, order, 1), np.take_along_axis(near, order, 1)
    # the tile itself, at distance 0, is not always the first: others may lie at the same place
    is_other = near != np.arange(num)[:, None]
    place = np.cumsum(is_other, axis=1)
    is_near = is_other & (place <= num_near)
    pairs = np.stack([np.nonzero(is_near)[0], near[is_near]], axis=1)
    farthest = np.where(is_near, distances, 0).max(axis=1)
    # more tiles at the farthest neighbour's distance than were asked for: all of them are looked at
    undecided = np.flatnonzero((distances[:, -1] == farthest) & (num_asked < num))
    if len(undecided):
        pairs = pairs[~np.isin(pairs[:, 0], undecided)]
        pairs = np.concatenate([pairs, *(_nearest(points, int(index), num_near) for index in undecided)])
    return np.unique(np.sort(pairs, axis=1), axis=0)


def _nearest(points: np.ndarray, index: int, num_near: int) -> np.ndarray:
    """(num_near, 2): the pairs of one tile with its nearest, ties to the lower index."""
    distances = np.sqrt(((points - points[index]) ** 2).sum(axis=1))
    distances[index] = np.inf
    order = np.lexsort((np.arange(len(points)), distances))[:num_near]
    return np.stack([np.full(num_near, index), order], axis=1)


def _lightest_first(edges: np.ndarray, features: np.ndarray, stored: np.ndarray) -> np.ndarray:
    """The edges (E, 2) by weight. A tile without any feature has cosine 0 to all."""
    weight = np.empty(len(edges), np.float32)
    for start in range(0, len(edges), _EDGES_AT_ONCE):
        pair = edges[start : start + _EDGES_AT_ONCE]
        first, second = (features[stored[pair[:, side]]].astype(np.float64) for side in (0, 1))
        norms = np.sqrt((first * first).sum(axis=1) * (second * second).sum(axis=1))
        cosine = (first * second).sum(axis=1) / np.where(norms > 0, norms, 1.0)
        # rounded to float32, so that a sum's last bits decide nothing
        weight[start : start + len(pair)] = 1 - cosine
    return edges[np.argsort(weight, kind="stable")]


def _spanning_edges(num: int, edges: np.ndarray) -> np.ndarray:
    """Those of the edges (E, 2), lightest first, that make the minimum spanning forest of `num` nodes (Borůvka, 1926).

    Every component takes its first edge to another one, until none has any; as the edges' order is total, no circle
    comes about.
    """
    component = np.arange(num)
    is_chosen = np.zeros(len(edges), bool)
    left = np.arange(len(edges))
    while len(left):
        ends = component[edges[left]]
        left = left[ends[:, 0] != ends[:, 1]]
        ends = component[edges[left]]
        first = np.full(num, len(edges))
        np.minimum.at(first, ends.ravel(), np.repeat(left, 2))
        taken = np.unique(first[first < len(edges)])
        is_chosen[taken] = True
        component = _united(component, component[edges[taken]])
    return edges[is_chosen]


def _united(component: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """The smallest name that each node's component has after these pairs of components became one."""
    name = np.arange(len(component))
    while True:
        before, names = name.copy(), name[pairs]
        np.minimum.at(name, names.ravel(), np.repeat(names.min(axis=1), 2))
        name = name[name]
        if (name == before).all():
            return np.asarray(name[component])


def _walk(num: int, edges: np.ndarray) -> TissueTree:
    """The orders of a forest (N - components, 2) whose nodes are numbered in stored order, and every node's parent."""
    both = np.concatenate([edges, edges[:, ::-1]])
    both = both[np.lexsort((both[:, 1], both[:, 0]))]
    starts = np.searchsorted(both[:, 0], np.arange(num + 1))
    parent, depth = np.full(num, -1), np.zeros(num, np.int64)
    levels = [_roots(num, edges)]
    while len(levels[-1]):
        level = levels[-1]
        counts = starts[level + 1] - starts[level]
        offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        upper, lower = np.repeat(level, counts), both[np.repeat(starts[level], counts) + offsets, 1]
        is_below = lower != parent[upper]
        upper, lower = upper[is_below], lower[is_below]
        parent[lower], depth[lower] = upper, depth[upper] + 1
        levels.append(lower)
    size = np.ones(num, np.int64)
    for lower in reversed(levels[1:]):
        np.add.at(size, parent[lower], size[lower])
    pre, tree = np.zeros(num, np.int64), np.zeros(num, np.int64)
    roots = levels[0]
    pre[roots], tree[roots] = np.cumsum(size[roots]) - size[roots], np.arange(len(roots))
    for lower in levels[1:]:
        upper = parent[lower]
        before = np.cumsum(size[lower]) - size[lower]  # in the trees of all that come first at this level
        is_first = np.ones(len(lower), bool)
        is_first[1:] = upper[1:] != upper[:-1]
        before -= np.repeat(before[is_first], np.diff([*np.flatnonzero(is_first), len(lower)]))
        pre[lower], tree[lower] = pre[upper] + 1 + before, tree[upper]
    queue = np.concatenate(levels)
    breadth = np.empty(num, np.int64)
    breadth[queue[np.argsort(tree[queue], kind="stable")]] = np.arange(num)
    # before a node ends, all end that began before it, but its ancestors, and all below it
    post = pre - depth + size - 1
    return TissueTree(np.stack([np.arange(num), pre, post, breadth]).astype(np.int32), parent.astype(np.int32))


def _roots(num: int, edges: np.ndarray) -> np.ndarray:
    """The first node of every component, in stored order."""
    if not num:
        return np.empty(0, np.int64)
    return np.unique(_united(np.arange(num), edges)) if len(edges) else np.arange(num)
