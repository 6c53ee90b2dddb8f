"""The constant matrices against PyTorch's own pooling and upsampling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from export.exporter import without_batch_norm
from export.pyramid import FixedPyramidPooling, FoldedHead, pool_matrix, upsample_matrix
from pspnet.errors import PspnetError
from pspnet.model import Head, PyramidPooling
from pspnet.spec import ModelSpec

PYRAMID_LIMIT = 1e-5  # of the largest reference value: float32 sums in another order
FLOAT_CONSTANTS_LIMIT = 1e-6  # of the largest logit: the constants are float32, all arithmetic is float64
WORTH_A_REWRITE = 0.05  # of the branch's norm: what approximations of others cost at least
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


def plain_head(head: Head, features: torch.Tensor) -> torch.Tensor:
    """The head as PyTorch's own operators compute it."""
    context = [features]
    for b, branch in zip(head.ppm.bins, head.ppm.branches, strict=True):
        cells = branch(F.adaptive_avg_pool2d(features, b))
        context.append(F.interpolate(cells, features.shape[2:], mode="bilinear", align_corners=head.ppm.align_corners))
    return head.classifier(head.bottleneck(torch.cat(context, 1)))


def random_head(random: np.random.Generator, channels: int, bins: tuple[int, ...], align_corners: bool) -> Head:
    """A small head with random widths and with batch norm away from 0 and 1."""
    branch, width = (int(value) for value in random.integers(1, 14, 2))
    names, side = ("road", "sky", "car"), 8 * max(bins)
    spec = ModelSpec(
        "resnet18", 8, bins, branch, width, 1, names, ((0, 0, 0),) * 3, (side, side), align_corners=align_corners
    )
    head = Head(channels, spec).eval()
    for module in head.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.3, 0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.3, 0.3)
    return head


@pytest.mark.parametrize("case", range(60))
def test_both_forms_equal_the_head_at_any_size(case: int) -> None:
    """Odd, prime, tiny and very wide maps; any bins, widths, batch and align_corners; in float64, so to rounding."""
    random = np.random.default_rng(case)
    torch.manual_seed(case)
    bins = tuple(sorted(random.choice([1, 2, 3, 4, 5, 6, 8, 9], int(random.integers(1, 6)), replace=False).tolist()))
    primes = [p for p in (7, 11, 13, 17, 23, 31, 53) if p >= max(bins)]
    height = int(random.choice([max(bins), *primes, int(random.integers(max(bins), 70))]))
    width = int(random.choice([max(bins), height, 3 * height + 1, *primes, int(random.integers(max(bins), 130))]))
    channels, batch = int(random.integers(1, 20)), int(random.integers(1, 4))
    head = random_head(random, channels, bins, bool(case % 2)).double()
    features = torch.randn(batch, channels, height, width, dtype=torch.float64)
    with torch.inference_mode():
        expected = plain_head(head, features)
        fixed = without_batch_norm(head)
        folded = FoldedHead(fixed, (height, width))
        fixed.add_module("ppm", FixedPyramidPooling(fixed.ppm, (height, width)))
        for form in (folded.double(), fixed.double()):
            difference = (form(features) - expected).abs().max()
            assert difference <= FLOAT_CONSTANTS_LIMIT * expected.abs().max(), (bins, height, width)


@pytest.mark.parametrize("kernel", [1, 5])
def test_other_bottleneck_kernels_fold_too(kernel: int) -> None:
    head = random_head(np.random.default_rng(1), 6, (1, 3), False).double()
    old = head.bottleneck[0]
    head.bottleneck[0] = torch.nn.Conv2d(old.in_channels, old.out_channels, kernel, padding=kernel // 2, bias=False)
    features = torch.randn(1, 6, 9, 14, dtype=torch.float64)
    with torch.inference_mode():
        expected = plain_head(head.double(), features)
        folded = FoldedHead(without_batch_norm(head), (9, 14)).double()(features)
    assert (folded - expected).abs().max() <= FLOAT_CONSTANTS_LIMIT * expected.abs().max()


@pytest.mark.parametrize("settings", [{"dilation": 2, "padding": 2}, {"padding": 0}, {"padding_mode": "reflect"}])
def test_a_head_that_cannot_fold_names_the_other_form(settings: dict) -> None:
    head = without_batch_norm(random_head(np.random.default_rng(1), 6, (1, 3), False).double())
    old = head.bottleneck[0]
    head.bottleneck[0] = torch.nn.Conv2d(old.in_channels, old.out_channels, 3, **({"padding": 1} | settings))
    with pytest.raises(PspnetError, match="--head fixed"):
        FoldedHead(head, (9, 14))


def test_products_have_sides_that_tensor_cores_want() -> None:
    head = without_batch_norm(random_head(np.random.default_rng(2), 16, (1, 2, 3, 6), False).double())
    folded = FoldedHead(head, (24, 32))
    assert folded.side == 16 and folded.get_buffer("select").shape == (256, 56)
    assert all(side % 8 == 0 for name in ("pool_w", "spread_w", "select") for side in folded.get_buffer(name).shape)


OTHERS = {
    "mmdeploy and torch2trt: kernel = stride = size // bins": lambda size: (size // 6, size // 6),
    "Torch-TensorRT: stride = size // bins, kernel = the rest": lambda size: (size - 5 * (size // 6), size // 6),
}


@pytest.mark.parametrize("rule", OTHERS)
def test_fixed_kernels_of_others_are_not_exact(rule: str) -> None:
    """The contrast, in the 6-bin branch at 64x128: pooled by one kernel, as others rewrite it, and by our matrices."""
    torch.manual_seed(2)
    features = F.interpolate(torch.randn(1, 16, 5, 9), (64, 128), mode="bicubic").relu()  # areas, as in a real map
    exact = F.interpolate(F.adaptive_avg_pool2d(features, 6), (64, 128), mode="bilinear")
    kernel, stride = zip(*map(OTHERS[rule], (64, 128)), strict=True)
    cells = F.avg_pool2d(features, kernel, stride)[:, :, :6, :6]
    assert cells.shape[2:] == (6, 6)
    theirs = F.interpolate(cells, (64, 128), mode="bilinear")
    rows, columns = (torch.from_numpy(upsample_matrix(6, n, False) @ pool_matrix(n, 6)).float() for n in (64, 128))
    assert (theirs - exact).norm() / exact.norm() > WORTH_A_REWRITE
    assert (rows @ features @ columns.T - exact).norm() / exact.norm() < PYRAMID_LIMIT
