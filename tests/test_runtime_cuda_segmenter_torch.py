"""The segmenter over PyTorch in float16, on the CPU: our kernels on the driver double, PyTorch's tensors in between."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pspnet.batch_norm import without_batch_norm
from pspnet.checkpoint import load_model
from pspnet.errors import PspnetError
from runtime import torch_cuda
from runtime.cuda_segmenter import CudaSegmenter
from runtime.segmenter import CpuSegmenter
from runtime.segmenters import device_network
from runtime.torch_cuda import half_network, refusals
from runtime.torch_runner import TorchRunner
from tests.doubles.cuda_driver import CudaDouble
from tests.segmenter_cases import frame_of, photos
from tests.torch_double import network_of

pytestmark = pytest.mark.usefixtures("cuda_double", "kernels_on_cpu", "one_thread")

NETWORK = 96, 128
LEAST_AGREEMENT = 0.98  # float16 weights and sums of a network that was never trained
FOLDED = 1e-5  # of the largest logit, in float32: the same sums with factors in another order
HALF = 2e-2  # of the largest logit, in float16, whose rounding is 5e-4, over some 60 layers


def test_labels_are_those_of_float32(small_checkpoint: Path, cuda_double: CudaDouble) -> None:
    frames = [frame_of(each) for each in photos(NETWORK)]
    wanted = CpuSegmenter(TorchRunner.from_checkpoint(small_checkpoint, 1)).segment(frames)
    network = network_of(small_checkpoint)
    with CudaSegmenter(network, graphs=False) as segmenter:
        assert (segmenter.runner.engine, segmenter.runner.precision) == ("torch-cuda", "fp16")
        assert segmenter.runner.provenance["gpu"]["name"] == "CPU double"
        for count in (1, 3, 2, 3):
            for got, each in zip(segmenter.segment(frames[:count]), wanted, strict=False):
                assert (got.labels == each.labels).mean() >= LEAST_AGREEMENT
    network.close()
    network.close()
    assert cuda_double.live() == {}


def test_weights_are_a_copy_in_float16(small_checkpoint: Path) -> None:
    network = network_of(small_checkpoint)
    assert network._model is not None and {each.dtype for each in network._model.parameters()} == {torch.float16}
    shapes = {tuple(each.shape): each for each in network._model.parameters()}
    assert any(each.is_contiguous(memory_format=torch.channels_last) for each in shapes.values() if each.ndim == 4)
    assert network.logits(1).address - network.logits(0).address == 2 * int(np.prod(network.logits(0).shape))
    network.close()


def test_batch_norm_is_folded_and_the_logits_stay(small_checkpoint: Path) -> None:
    """Against the network as trained, whose batch norm has statistics away from 0 and 1."""
    _, model = load_model(small_checkpoint)
    model.eval()
    given = {name: value.clone() for name, value in model.state_dict().items()}
    pixels = torch.randn((2, 3, *NETWORK), generator=torch.Generator().manual_seed(0))
    half = half_network(model, torch.device("cpu"))
    with torch.inference_mode():
        trained = model(pixels)["out"]
        largest = trained.abs().max()
        folded = without_batch_norm(model)(pixels)["out"]
        assert (folded - trained).abs().max() <= FOLDED * largest
        logits = half(pixels.half().to(memory_format=torch.channels_last))["out"]
    assert logits.dtype == torch.float16 and (logits.float() - trained).abs().max() <= HALF * largest
    assert not any(isinstance(module, nn.BatchNorm2d) for module in half.modules())
    wide = [each.weight for each in half.modules() if isinstance(each, nn.Conv2d) and each.kernel_size == (3, 3)]
    assert wide and all(weight.is_contiguous(memory_format=torch.channels_last) for weight in wide)
    assert all(torch.equal(value, given[name]) for name, value in model.state_dict().items())  # the runner's own


def test_closing_the_network_closes_its_segmenter(small_checkpoint: Path, cuda_double: CudaDouble) -> None:
    network = network_of(small_checkpoint)
    result = CudaSegmenter(network, graphs=False).segment([frame_of(photos(NETWORK)[0])])[0]
    network.close()
    assert cuda_double.live() == {} and result.labels.max() < 255


def test_an_old_pytorch_runs_without_graphs(
    small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, cuda_double: CudaDouble
) -> None:
    monkeypatch.delattr(torch_cuda.torch.cuda, "MemPool")
    network = network_of(small_checkpoint)
    with CudaSegmenter(network) as segmenter:
        first, *others = [segmenter.segment([frame_of(photos(NETWORK)[0])])[0].labels for _ in range(3)]
        assert "cannot keep memory for a graph" in segmenter.without_graphs
    network.close()
    assert all(np.array_equal(first, other) for other in others) and cuda_double.live() == {}


def test_what_pytorch_raises_is_one_line() -> None:
    with pytest.raises(PspnetError) as refused, refusals("net.pt"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")
    text = str(refused.value)
    assert "net.pt" in text and "Tried to allocate 2.00 GiB. End other programs" in text and "\n" not in text
    with pytest.raises(KeyError), refusals("net.pt"):
        raise KeyError("a mistake of ours stays what it is")


def test_a_checkpoint_on_a_cpu_keeps_its_runner(small_checkpoint: Path) -> None:
    assert device_network(TorchRunner.from_checkpoint(small_checkpoint, 1)) is None
