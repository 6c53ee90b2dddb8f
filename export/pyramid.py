"""The pyramid as products with constant matrices: exact at every size, with fixed-size ops only.

Adaptive average pooling of a map X (h, w) to b x b cells is P_h X P_w^T, and bilinear upsampling of cells Y (b, b) is
U_h Y U_w^T: both are separable and linear. `FixedPyramidPooling` writes that down bin by bin; `FoldedHead` carries it
through the bottleneck.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from pspnet.errors import PspnetError
from pspnet.model import Head, PyramidPooling

ALIGNMENT = 8  # tensor cores want the sides of fp16 products in multiples of 8; a CPU is not slowed down by the zeros


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


class FoldedHead(nn.Module):
    """A trained `Head` without batch norm for one map size, its context half computed on the bins' few cells.

    Features (N, C, h, w) -> logits (N, classes, h, w), equal to the head's. Upsampling, zero padding and convolution
    are linear, so the bottleneck's taps can meet the cells before these are spread over the map:

        cells   = P_h X P_w^T, of them those whose row and column are of one bin       (N, C, 1, cells)
        context = mask * ReLU(project cells), each branch on its own bin's cells       (N, R, 1, cells)
        grid    = taps context, one row and one column of blocks per tap               (N, O, k n, k n)
        logits  = classifier(ReLU(bottleneck(X) + S_h grid S_w^T))

    S holds upsampling, the shift of each tap and the zero padding. n, the stacked rows of all bins, and cells are
    padded with zeros to multiples of 8. docs/export.md derives it.
    """

    def __init__(self, trained: Head, map_size: tuple[int, int]) -> None:
        super().__init__()
        whole = _convolution(trained.bottleneck)
        if not can_fold(whole):
            raise PspnetError(f"a head with the bottleneck {whole} cannot be folded. Export it with --head fixed")
        branches = [_convolution(branch) for branch in trained.ppm.branches]
        self.channels, self.width = branches[0].in_channels, whole.out_channels
        self.kernel: int = whole.kernel_size[0]
        self.side = padded(sum(trained.ppm.bins))
        self.project = _conv1x1(
            torch.cat([branch.weight for branch in branches]), torch.cat([_bias(b) for b in branches])
        )
        taps = whole.weight[:, self.channels :].permute(2, 3, 0, 1)  # (k, k, O, R)
        self.taps = _conv1x1(taps.flatten(0, 2)[..., None, None], None)
        self.bottleneck = copy.deepcopy(whole)
        self.bottleneck.in_channels = self.channels
        self.bottleneck.weight = nn.Parameter(whole.weight[:, : self.channels].clone())
        self.classifier = trained.classifier
        self._constants(trained.ppm, [branch.out_channels for branch in branches], map_size)

    def _constants(self, ppm: PyramidPooling, widths: list[int], map_size: tuple[int, int]) -> None:
        selection = cell_selection(ppm.bins, self.side)
        pools = [stacked_pool_matrix(pixels, ppm.bins, self.side) for pixels in map_size]
        spreads = [spread_matrix(pixels, ppm.bins, self.side, self.kernel, ppm.align_corners) for pixels in map_size]
        for name, matrix in {
            "pool_h": pools[0], "pool_w": pools[1].T, "spread_h": spreads[0], "spread_w": spreads[1].T,
            "select": selection, "expand": selection.T, "mask": np.repeat(_owners(ppm.bins), widths, 0)[:, None],
        }.items():  # fmt: skip
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(matrix, np.float32)))

    def forward(self, features: Tensor) -> Tensor:
        buffer, n, k = self.get_buffer, self.side, self.kernel
        pooled = buffer("pool_h") @ (features @ buffer("pool_w"))  # (N, C, n, n)
        cells = pooled.reshape(-1, self.channels, 1, n * n) @ buffer("select")  # (N, C, 1, cells)
        context = torch.relu(self.project(cells)) * buffer("mask")  # (N, R, 1, cells)
        grid = (self.taps(context) @ buffer("expand")).reshape(-1, k, k, self.width, n, n)
        grid = grid.permute(0, 3, 1, 4, 2, 5).reshape(-1, self.width, k * n, k * n)
        spread = (buffer("spread_h") @ grid) @ buffer("spread_w")  # (N, O, h, w)
        return self.classifier(torch.relu(self.bottleneck(features) + spread))


def can_fold(bottleneck: nn.Conv2d) -> bool:
    """Whether a bottleneck is a plain convolution that keeps the map's size with zero padding."""
    kernel = bottleneck.kernel_size
    return (
        kernel[0] == kernel[1] and kernel[0] % 2 == 1 and bottleneck.padding == (kernel[0] // 2, kernel[0] // 2)
        and bottleneck.stride == bottleneck.dilation == (1, 1) and bottleneck.groups == 1
        and bottleneck.padding_mode == "zeros"
    )  # fmt: skip


def padded(count: int) -> int:
    """`count` rounded up to a multiple of ALIGNMENT."""
    return -(-count // ALIGNMENT) * ALIGNMENT


def stacked_pool_matrix(pixels: int, bins: tuple[int, ...], side: int) -> np.ndarray:
    """(side, pixels) float64: the pooling matrices of all bins one below the other, then rows of zeros."""
    matrix = np.zeros((side, pixels))
    matrix[: sum(bins)] = np.concatenate([pool_matrix(pixels, b) for b in bins])
    return matrix


def spread_matrix(pixels: int, bins: tuple[int, ...], side: int, kernel: int, align_corners: bool) -> np.ndarray:
    """S (pixels, kernel * side) float64: for each tap of the kernel, what pixel y + tap reads of every bin's cells.

    A pixel whose tap lies outside the map reads nothing, which is the convolution's zero padding.
    """
    upsample = np.zeros((pixels + kernel - 1, side))
    inside = slice(kernel // 2, kernel // 2 + pixels)
    upsample[inside, : sum(bins)] = np.concatenate([upsample_matrix(b, pixels, align_corners) for b in bins], 1)
    return np.concatenate([upsample[tap : tap + pixels] for tap in range(kernel)], 1)


def cell_selection(bins: tuple[int, ...], side: int) -> np.ndarray:
    """(side², padded cells) of 0 and 1: picks the cells whose row and column belong to the same bin."""
    starts = np.cumsum([0, *bins])
    places = [(s + i) * side + s + j for s, b in zip(starts, bins, strict=False) for i in range(b) for j in range(b)]
    selection = np.zeros((side * side, padded(len(places))))
    selection[places, np.arange(len(places))] = 1
    return selection


def _owners(bins: tuple[int, ...]) -> np.ndarray:
    """(bins, padded cells) of 0 and 1: which of the selected cells are the bin's own."""
    cells = [b * b for b in bins]
    owners = np.zeros((len(bins), padded(sum(cells))))
    owners[np.repeat(np.arange(len(bins)), cells), np.arange(sum(cells))] = 1
    return owners


def _convolution(block: nn.Module) -> nn.Conv2d:
    """The convolution of a convolution, batch norm and activation."""
    return next(module for module in block.modules() if isinstance(module, nn.Conv2d))


def _bias(conv: nn.Conv2d) -> Tensor:
    return torch.zeros(conv.out_channels) if conv.bias is None else conv.bias


def _conv1x1(weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=bias is not None)
    conv.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        conv.bias = nn.Parameter(bias.detach().clone())
    return conv
