"""Training on a CPU: convolutions in another form against PyTorch's own, and memory that is kept."""

from __future__ import annotations

import copy
import ctypes
import resource

import pytest
import torch
from torch import Tensor, nn

from pspnet.cpu_training import freed_memory_kept, quick_depthwise
from pspnet.recipe import TrainConfig
from tests.nets import random_model
from tests.test_pspnet_train_step import stepped

pytestmark = pytest.mark.usefixtures("one_thread")

SAME = 1e-12  # float64 sums in another order
LARGE = 16_000_000  # float32 numbers, 64 MB: glibc maps and unmaps such blocks one by one


def depthwise(stride: int, dilation: int, kernel: int = 3, bias: bool = False) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(6, 6, kernel, stride, dilation * (kernel // 2), dilation, 6, bias).double()


def both(conv: nn.Module, quick: nn.Module, height: int, width: int) -> tuple[list[Tensor], list[Tensor]]:
    """Output and the gradients of input and parameters: of PyTorch's own convolution, and of the other form."""
    results = []
    for module in (conv, quick):
        torch.manual_seed(1)
        maps = torch.randn(2, 6, height, width, dtype=torch.double).to(memory_format=torch.channels_last)
        maps.requires_grad_()
        output = module(maps)
        gradients = torch.autograd.grad(output, [maps, *module.parameters()], torch.randn_like(output))
        results.append([output.detach(), *gradients])
    return results[0], results[1]


@pytest.mark.parametrize(("stride", "dilation", "kernel"), [(2, 1, 3), (1, 2, 3), (1, 4, 3), (2, 1, 5), (1, 2, 5)])
@pytest.mark.parametrize(("height", "width"), [(12, 16), (9, 13), (7, 10), (1, 3)])
def test_outputs_and_gradients_are_those_of_the_plain_form(
    stride: int, dilation: int, kernel: int, height: int, width: int
) -> None:
    conv = depthwise(stride, dilation, kernel, bias=True)
    quick = copy.deepcopy(conv)
    quick_depthwise(quick)
    assert "forward" in vars(quick)
    plain, other = both(conv, quick, height, width)
    for expected, found in zip(plain, other, strict=True):
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, rtol=SAME, atol=SAME)


def test_maps_stay_in_channels_last() -> None:
    for conv in (depthwise(2, 1), depthwise(1, 2)):
        quick_depthwise(conv)
        maps = torch.randn(2, 6, 9, 13, dtype=torch.double).to(memory_format=torch.channels_last)
        assert conv(maps).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(6, 6, 3, 1, 1, groups=6), nn.Conv2d(6, 6, 3, 2, 1), nn.Conv2d(6, 12, 3, 2, 1, groups=6),
        nn.Conv2d(6, 6, 3, 2, 0, groups=6), nn.Conv2d(6, 6, 3, 2, 2, 2, groups=6), nn.Conv2d(6, 6, 1, groups=6),
        nn.Conv2d(6, 6, 3, 2, 1, groups=6, padding_mode="reflect"), nn.Conv2d(6, 6, (3, 5), 2, (1, 2), groups=6),
        nn.Conv2d(1, 1, 3, 2, 1),
    ],
)  # fmt: skip
def test_other_convolutions_are_left_alone(conv: nn.Conv2d) -> None:
    quick_depthwise(conv)
    assert "forward" not in vars(conv)


def test_without_gradients_the_plain_form_runs() -> None:
    conv = depthwise(1, 2)
    maps = torch.randn(2, 6, 9, 13, dtype=torch.double)
    expected = conv(maps).detach()
    quick_depthwise(conv)
    with torch.no_grad():
        assert torch.equal(conv(maps), expected)


@pytest.mark.parametrize(("stride", "count"), [(8, 2 + 11), (16, 3 + 4), (32, 4)])
def test_of_mobilenet_v2_the_strided_and_dilated_ones_change(stride: int, count: int) -> None:
    _, model = random_model("mobilenet_v2", stride, (192, 192))
    names = list(model.state_dict())
    quick_depthwise(model)
    changed = [module for module in model.modules() if isinstance(module, nn.Conv2d) and "forward" in vars(module)]
    assert len(changed) == count
    assert list(model.state_dict()) == names


def test_a_copy_computes_with_weights_of_its_own() -> None:
    conv = depthwise(1, 2)
    quick_depthwise(conv)
    other = copy.deepcopy(conv)
    nn.init.zeros_(other.weight)
    maps = torch.randn(1, 6, 8, 8, dtype=torch.double)
    assert not other(maps).any()
    assert conv(maps).any()


def test_training_on_a_cpu_takes_the_other_form(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[nn.Module] = []
    monkeypatch.setattr("pspnet.train_step.quick_depthwise", seen.append)
    _, model = stepped(TrainConfig(batch=2, crop=64), 2)
    assert seen == [model]


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_freed_memory_is_used_again_within_and_returned_afterwards() -> None:
    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(8):
            torch.ones(LARGE)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    plain = faults()
    with freed_memory_kept():
        torch.ones(LARGE)
        kept = faults()
    assert kept < plain / 8
    assert faults() > plain / 2
