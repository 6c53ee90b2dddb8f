"""Training on a CPU: convolutions in another form against PyTorch's own, and memory that is kept."""

from __future__ import annotations

import contextlib
import copy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pspnet import train
from pspnet.cpu_training import freed_memory_kept, plain_depthwise, quick_depthwise
from pspnet.dataset import open_dataset
from pspnet.losses import Criterion
from pspnet.recipe import TrainConfig
from pspnet.train_step import TrainStep
from tests.nets import ROOT, random_model
from tests.training_runs import CONFIG, fresh, no_validation

pytestmark = pytest.mark.usefixtures("one_thread")

SAME = 1e-12  # float64 sums in another order
SAME_STEP = {"off": 1e-5, "bf16": 0.02}  # of the largest gradient: sums in another order through 53 layers
BLOCKS = 64
LARGE = 16_000_000  # float32 numbers, 64 MB: glibc maps and unmaps such blocks one by one


def depthwise(stride: int, dilation: int, kernel: int = 3, bias: bool = False) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(6, 6, kernel, stride, dilation * (kernel // 2), dilation, 6, bias).double()


def both(
    conv: nn.Module, quick: nn.Module, height: int, width: int, order: torch.memory_format
) -> tuple[list[Tensor], list[Tensor]]:
    """Output and the gradients of input and parameters: of PyTorch's own convolution, and of the other form."""
    results = []
    for module in (conv, quick):
        torch.manual_seed(1)
        maps = torch.randn(2, 6, height, width, dtype=torch.double).to(memory_format=order)
        maps.requires_grad_()
        output = module(maps)
        gradients = torch.autograd.grad(
            output, [maps, *module.parameters()], torch.randn(output.shape, dtype=torch.double)
        )
        results.append([output.detach(), *gradients])
    return results[0], results[1]


@pytest.mark.parametrize(("stride", "dilation", "kernel"), [(2, 1, 3), (1, 2, 3), (1, 4, 3), (2, 1, 5), (1, 2, 5)])
@pytest.mark.parametrize(("height", "width"), [(12, 16), (9, 13), (7, 10), (1, 3)])
@pytest.mark.parametrize("order", [torch.channels_last, torch.contiguous_format])
def test_outputs_and_gradients_are_those_of_the_plain_form(
    stride: int, dilation: int, kernel: int, height: int, width: int, order: torch.memory_format
) -> None:
    conv = depthwise(stride, dilation, kernel, bias=True)
    quick = copy.deepcopy(conv)
    quick_depthwise(quick)
    assert "forward" in vars(quick)
    plain, other = both(conv, quick, height, width, order)
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


@pytest.mark.parametrize("conv", [depthwise(1, 2), depthwise(2, 1)])
def test_without_gradients_the_plain_form_runs(conv: nn.Conv2d, monkeypatch: pytest.MonkeyPatch) -> None:
    maps = torch.randn(2, 6, 9, 13, dtype=torch.double)
    expected = conv(maps).detach()
    quick_depthwise(conv)
    monkeypatch.setattr("pspnet.cpu_training._at_each_pixel", None)
    with torch.no_grad():
        assert torch.equal(conv(maps), expected)


def rewritten(model: nn.Module) -> int:
    return sum("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize(("stride", "count"), [(8, 2 + 11), (16, 3 + 4), (32, 4)])
def test_of_mobilenet_v2_the_strided_and_dilated_ones_change(stride: int, count: int) -> None:
    _, model = random_model("mobilenet_v2", stride, (192, 192))
    names = list(model.state_dict())
    quick_depthwise(model)
    assert rewritten(model) == count
    assert list(model.state_dict()) == names
    plain_depthwise(model)
    assert rewritten(model) == 0


def test_a_copy_computes_with_weights_of_its_own() -> None:
    conv = depthwise(1, 2)
    quick_depthwise(conv)
    other = copy.deepcopy(conv)
    nn.init.zeros_(other.weight)
    maps = torch.randn(1, 6, 8, 8, dtype=torch.double)
    assert not other(maps).any()
    assert conv(maps).any()


def step_of(stride: int, **settings: Any) -> TrainStep:
    """A step of mobilenet_v2 without dropout on the CPU, with seeded weights."""
    _, model = random_model("mobilenet_v2", stride, (192, 192))
    for module in model.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0
    config = TrainConfig(batch=2, crop=96, lr=1e-8, **settings)
    state = train.new_state(model, config, 10)
    step = TrainStep(state, Criterion(config, False, {"aux3": 0.4}), config, [Path("0.png"), Path("1.png")], None)
    step.train_mode()
    return step


@pytest.mark.parametrize("amp", ["off", "bf16"])
@pytest.mark.parametrize("stride", [8, 16])
def test_a_step_takes_the_other_form_and_has_the_same_gradients(
    stride: int, amp: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pspnet.distributed.device", lambda: torch.device("cpu"))
    monkeypatch.setattr("pspnet.train_step.device", lambda: torch.device("cpu"))
    torch.manual_seed(0)
    images, labels = torch.randn(2, 3, 96, 96), torch.randint(0, 11, (2, 96, 96))
    gradients = []
    for undo in (False, True):
        step = step_of(stride, amp=amp)
        assert rewritten(step.state.model) > 0
        if undo:
            plain_depthwise(step.state.model)
        step([[images, labels, torch.arange(2)]], "here")
        gradients.append({name: p.grad for name, p in step.state.model.named_parameters() if p.grad is not None})
    largest = max(float(gradient.abs().max()) for gradient in gradients[1].values())
    for name, expected in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], expected, rtol=0, atol=SAME_STEP[amp] * largest, msg=name)


def test_other_memory_formats_and_compiled_models_keep_the_plain_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pspnet.distributed.device", lambda: torch.device("cpu"))
    monkeypatch.setattr("pspnet.train_step.device", lambda: torch.device("cpu"))
    monkeypatch.setattr(torch, "compile", lambda module: module)
    assert rewritten(step_of(16).state.model) > 0
    assert rewritten(step_of(16, channels_last=False).state.model) == 0
    assert rewritten(step_of(16, compile=True).state.model) == 0


MEMORY = f"""
import resource, sys
import torch
from pspnet.cpu_training import freed_memory_kept

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range({BLOCKS}):
        torch.ones({LARGE})
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

plain, before = faults(), resident()
with freed_memory_kept():
    kept, within = faults(), resident()
print(plain, kept, before, within, resident())
"""
"""Page faults of large blocks, each freed before the next, and bytes in memory; in a process that did nothing else."""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc")
def test_freed_memory_is_used_again_within_and_returned_afterwards() -> None:
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True, cwd=ROOT)
    plain, kept, before, within, afterwards = map(int, done.stdout.split())
    assert kept < plain / 4  # alignment may spoil the first few blocks
    assert within - before > 0.9 * 4 * LARGE
    assert afterwards - before < 0.1 * 4 * LARGE


def test_a_run_on_a_cpu_keeps_its_memory(tmp_path: Path, camvid_tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside: list[bool] = []

    @contextlib.contextmanager
    def kept() -> Iterator[None]:
        inside.append(True)
        yield
        inside.append(False)

    def validate(model: nn.Module, spec: Any) -> dict[str, Any]:
        assert inside == [True]
        return no_validation(model, spec)

    monkeypatch.setattr("pspnet.distributed.device", lambda: torch.device("cpu"))
    monkeypatch.setattr(train, "freed_memory_kept", kept)
    dataset = open_dataset("camvid11", camvid_tiny, "train")
    spec, model = fresh(dataset)
    train.train(model, spec, dataset, CONFIG, tmp_path, validate, resume=False)
    assert inside == [True, False]


def test_other_systems_train_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr("ctypes.CDLL", None)
    with freed_memory_kept():
        pass
