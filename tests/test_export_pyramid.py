"""The constant matrices against PyTorch's own pooling and upsampling."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from export.pyramid import FixedPyramidPooling, pool_matrix, upsample_matrix
from pspnet.model import PyramidPooling

PYRAMID_LIMIT = 1e-5  # of the largest reference value: float32 sums in another order
MATRIX_LIMIT = 1e-12  # both sides in float64

MAPS = [(45, 60), (60, 60), (64, 128), (90, 160), (128, 256), (47, 61), (7, 13), (6, 6)]


@pytest.mark.parametrize("map_size", MAPS)
@pytest.mark.parametrize("align_corners", [False, True])
def test_pyramid_equals_adaptive_pooling_and_interpolation(map_size: tuple[int, int], align_corners: bool) -> None:
    torch.manual_seed(1)
    trained = PyramidPooling(24, 8, (1, 2, 3, 6), align_corners).eval()
    features = torch.relu(torch.randn(2, 24, *map_size))
    with torch.no_grad():
        expected = [features]
        for b, branch in zip((1, 2, 3, 6), trained.branches, strict=True):
            cells = branch(F.adaptive_avg_pool2d(features, b))
            expected.append(F.interpolate(cells, map_size, mode="bilinear", align_corners=align_corners))
        reference = torch.cat(expected, 1)
        difference = (FixedPyramidPooling(trained, map_size)(features) - reference).abs().max()
    assert difference <= PYRAMID_LIMIT * reference.abs().max()


@pytest.mark.parametrize("pixels", [1, 2, 5, 6, 13, 64, 128, 255])
@pytest.mark.parametrize("cells", [1, 2, 3, 6])
def test_matrices_equal_torch_in_float64(pixels: int, cells: int) -> None:
    if pixels >= cells:
        eye = torch.eye(pixels, dtype=torch.float64)[None]
        pooled = F.adaptive_avg_pool1d(eye, cells)[0].T
        assert (torch.from_numpy(pool_matrix(pixels, cells)) - pooled).abs().max() <= MATRIX_LIMIT
    for align_corners in (False, True):
        eye = torch.eye(cells, dtype=torch.float64)[None]
        spread = F.interpolate(eye, pixels, mode="linear", align_corners=align_corners)[0].T
        ours = torch.from_numpy(upsample_matrix(cells, pixels, align_corners))
        assert (ours - spread).abs().max() <= MATRIX_LIMIT


def test_fixed_kernels_of_others_are_not_exact() -> None:
    """The contrast that the matrices are worth: kernel = stride = size // bins, as mmdeploy rewrites pooling."""
    torch.manual_seed(2)
    smooth = F.interpolate(torch.randn(1, 8, 9, 17), (64, 128), mode="bicubic").relu()
    exact = F.adaptive_avg_pool2d(smooth, 6)
    fixed = F.avg_pool2d(smooth, (64 // 6, 128 // 6), stride=(64 // 6, 128 // 6))[:, :, :6, :6]
    assert ((fixed - exact).norm() / exact.norm()) > 0.02
