"""The pyramid as products with constant matrices: exact at every size, with fixed-size ops only.

Adaptive average pooling of a map X (h, w) to b x b cells is P_h X P_w^T, and bilinear upsampling of cells Y (b, b) is
U_h Y U_w^T: both are separable and linear.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from pspnet.model import PyramidPooling


def pool_matrix(pixels: int, cells: int) -> np.ndarray:
    """P (cells, pixels) float64 of torch.nn.functional.adaptive_avg_pool2d along one axis.

    Row i averages pixels ⌊i·n/b⌋ to ⌈(i+1)·n/b⌉ - 1; the windows overlap where b does not divide n.
    """
    matrix = np.zeros((cells, pixels))
    for i in range(cells):
        start, stop = i * pixels // cells, -(-(i + 1) * pixels // cells)
        matrix[i, start:stop] = 1 / (stop - start)
    return matrix


def upsample_matrix(cells: int, pixels: int, align_corners: bool) -> np.ndarray:
    """U (pixels, cells) float64 of torch.nn.functional.interpolate(mode="bilinear") along one axis."""
    index = np.arange(pixels)
    if align_corners:
        position = index * ((cells - 1) / (pixels - 1) if pixels > 1 else 0.0)
    else:
        position = np.clip((index + 0.5) * cells / pixels - 0.5, 0, cells - 1)
    lower = np.minimum(position.astype(int), max(cells - 2, 0))
    upper = np.minimum(lower + 1, cells - 1)
    matrix = np.zeros((pixels, cells))
    np.add.at(matrix, (index, lower), 1 - (position - lower))
    np.add.at(matrix, (index, upper), position - lower)
    return matrix


class FixedPyramidPooling(nn.Module):
    """The trained `PyramidPooling` for one map size (h, w): same weights, constant matrices instead of adaptive ops.

    (N, C, h, w) -> (N, C + len(bins) * branch_channels, h, w)
    """

    def __init__(self, trained: PyramidPooling, map_size: tuple[int, int]) -> None:
        super().__init__()
        self.bins, self.branches = trained.bins, trained.branches
        height, width = map_size
        for b in self.bins:
            self._constant(f"pool_h{b}", pool_matrix(height, b))  # (b, h)
            self._constant(f"pool_w{b}", pool_matrix(width, b).T)  # (w, b)
            self._constant(f"spread_h{b}", upsample_matrix(b, height, trained.align_corners))  # (h, b)
            self._constant(f"spread_w{b}", upsample_matrix(b, width, trained.align_corners).T)  # (b, w)

    def forward(self, features: Tensor) -> Tensor:
        context = [features]
        for b, branch in zip(self.bins, self.branches, strict=True):
            pool_h, pool_w = self.get_buffer(f"pool_h{b}"), self.get_buffer(f"pool_w{b}")
            spread_h, spread_w = self.get_buffer(f"spread_h{b}"), self.get_buffer(f"spread_w{b}")
            # Columns first: the large product is then one flat matrix product, and the second one is small.
            cells = branch(pool_h @ (features @ pool_w))  # (N, branch_channels, b, b)
            context.append((spread_h @ cells) @ spread_w)  # (N, branch_channels, h, w)
        return torch.cat(context, 1)

    def _constant(self, name: str, matrix: np.ndarray) -> None:
        self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(matrix, np.float32)))
