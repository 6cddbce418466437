"""How well a map over an image tells the places where somebody pointed from the others: NSS and AUC.

Both are defined as in Bylinskii et al., "What do different evaluation metrics tell us about saliency models?" (TPAMI
2019, arXiv 1604.03605, section 4), with the cells of a grid of image tokens in place of pixels, and the cells that a
mouse trace visits in place of fixations. The scale of a map does not matter to either.

Legend: L maps (layers), I cells, M masks.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata


def nss(maps_LI: ArrayLike, masks_MI: ArrayLike) -> NDArray[np.float64]:
    """Normalized scanpath saliency (L, M): the mean over the cells of a mask of the map with mean 0 and standard
    deviation 1. 0 is chance, and the score of a map that is equal everywhere; not bounded. Raises ValueError for an
    empty mask."""
    maps, masks = _checked(maps_LI, masks_MI)
    centred = maps - maps.mean(1, keepdims=True)
    spread = maps.std(1, keepdims=True)
    # rounding of a constant map must not be taken for structure
    is_flat = spread <= 1e-9 * np.abs(maps).max(1, keepdims=True)
    normalized = np.divide(centred, spread, out=np.zeros_like(centred), where=~is_flat)
    return normalized @ masks.T / masks.sum(1)


def auc(maps_LI: ArrayLike, masks_MI: ArrayLike) -> NDArray[np.float64]:
    """Area under the ROC curve (L, M), AUC-Judd with every value of the map as a threshold: the probability that a cell
    of the mask has a higher value than one outside of it, ties counting one half. 0.5 is chance, 1 the best. Raises
    ValueError for a mask of no cell, or of all."""
    maps, masks = _checked(maps_LI, masks_MI)
    inside = masks.sum(1)
    outside = masks.shape[1] - inside
    if (outside == 0).any():
        raise ValueError("a mask of all cells")
    ranks = rankdata(maps, axis=1)  # of ties the mean: Mann-Whitney's U
    return (ranks @ masks.T - inside * (inside + 1) / 2) / (inside * outside)


def visited_cells(points: Sequence[Sequence[float]], height: int, width: int) -> NDArray[np.bool_]:
    """(height * width,) rows from the top: the cells of a grid over the whole image that hold one of the points (x, y),
    shares of its width and height. A point on the right or lower edge is in the last cell."""
    cells = np.zeros((height, width), dtype=bool)
    if len(points):
        x, y = np.asarray(points, dtype=float).T
        cells[np.minimum((y * height).astype(int), height - 1), np.minimum((x * width).astype(int), width - 1)] = True
    return cells.ravel()


def _checked(maps_LI: ArrayLike, masks_MI: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    maps, masks = np.atleast_2d(np.asarray(maps_LI, dtype=float)), np.atleast_2d(np.asarray(masks_MI, dtype=float))
    if (masks.sum(1) == 0).any():
        raise ValueError("a mask of no cell")
    return maps, masks
