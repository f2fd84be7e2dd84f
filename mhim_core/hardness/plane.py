"""Points in two dimensions, for looking at: principal components, or UMAP where it is installed."""

from importlib.util import find_spec

import numpy as np

from mhim_core.errors import InputError
from mhim_core.hardness.neighbours import standardise
from mhim_core.metrics.arrays import Floats

_MIN_DISTS = tuple(step / 10 for step in range(11))
_NUM_SHEPARD = 1000
"""Points whose distances are compared."""


def has_umap() -> bool:
    """Whether the package umap-learn is installed."""
    return find_spec("umap") is not None


def principal_plane(x_ND: Floats) -> Floats:
    """(N, 2): the two leading principal components of the standardised features.

    The sign of each is such that its largest loading by magnitude is positive (of equals the first). Where there is
    no second component, its coordinate is 0.
    """
    x_ND = np.asarray(x_ND, np.float64)
    centred_ND = standardise(x_ND, x_ND)
    plane_N2 = np.zeros((len(x_ND), 2))
    is_wide = centred_ND.shape[1] > len(centred_ND)
    gram = centred_ND @ centred_ND.T if is_wide else centred_ND.T @ centred_ND
    values, vectors = np.linalg.eigh(gram)
    for axis in range(min(2, len(values))):
        value, vector = values[-1 - axis], vectors[:, -1 - axis]
        if value <= 1e-10 * max(values[-1], 1e-300):
            break
        loading_D = centred_ND.T @ vector / np.sqrt(value) if is_wide else vector
        sign = np.sign(loading_D[np.argmax(np.round(np.abs(loading_D), 9))])
        plane_N2[:, axis] = sign * (centred_ND @ loading_D)
    return plane_N2


def umap_plane(x_ND: Floats, k: int, seed: int = 2021) -> Floats:
    """(N, 2) by UMAP of k + 1 neighbours, with the min_dist of 0, .1, …, 1 whose distances keep the order of the
    originals best (Spearman's correlation of the Shepard diagram), as HardVis chooses it.

    Raises InputError where umap-learn is not installed.
    """
    if not has_umap():
        raise InputError("UMAP needs the package umap-learn (pip install umap-learn); map=pca needs nothing")
    import umap
    from scipy.spatial.distance import pdist
    from scipy.stats import spearmanr

    x_ND = standardise(np.asarray(x_ND, np.float64), np.asarray(x_ND, np.float64))
    chosen = np.random.default_rng(seed).permutation(len(x_ND))[:_NUM_SHEPARD]
    original = pdist(x_ND[chosen])
    best: tuple[float, Floats] | None = None
    for min_dist in _MIN_DISTS:
        fitted = umap.UMAP(n_neighbors=k + 1, min_dist=min_dist, random_state=seed, n_jobs=1).fit_transform(x_ND)
        plane_N2 = np.asarray(fitted, np.float64)
        kept = float(spearmanr(original, pdist(plane_N2[chosen])).statistic)
        if best is None or kept > best[0]:
            best = kept, plane_N2
    assert best is not None
    return best[1]
