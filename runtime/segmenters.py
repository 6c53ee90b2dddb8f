"""The segmenter of a runner: on the GPU where the network is there, else on the CPU."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeAlias

from runtime.cuda_segmenter import CudaSegmenter
from runtime.device_network import DeviceNetwork
from runtime.nvrtc import CannotCompile
from runtime.runner import Runner
from runtime.segmenter import CpuSegmenter, Region, View

AnySegmenter: TypeAlias = CpuSegmenter | CudaSegmenter
"""What it runs on is its `runner`, whose engine and precision figures must name."""


@contextmanager
def segmenting(
    runner: Runner, fit: str | None = None, region: Region | None = None, views: Mapping[str, View] | None = None,
    with_confidence: bool = False, batch: int | None = None,
) -> Iterator[AnySegmenter]:  # fmt: skip
    """`with segmenting(runner) as segmenter:`; arguments as of `CpuSegmenter`.

    A TensorRT engine, and a checkpoint in float16 where PyTorch has a GPU, get a CudaSegmenter; where our kernels
    cannot be compiled, a CpuSegmenter over the runner, which says why on stderr, once. Until the end of the block the
    runner itself should not be asked: it may have given its memory away.
    """
    network = device_network(runner)
    if network is None:
        yield CpuSegmenter(runner, fit, region, views, with_confidence, batch)
        return
    try:
        opened: AbstractContextManager[AnySegmenter]
        try:
            opened = CudaSegmenter(network, fit, region, views, with_confidence, batch)
        except CannotCompile as error:
            network.close()
            on_cpu = CpuSegmenter(runner, fit, region, views, with_confidence, batch)
            on_cpu.without_kernels = str(error)
            _tell(str(error))
            opened = nullcontext(on_cpu)
        with opened as segmenter:
            yield segmenter
    finally:
        network.close()


def device_network(runner: Runner) -> DeviceNetwork | None:
    """A runner's network on the GPU, to be closed; None where it runs elsewhere, or by other means."""
    network = getattr(runner, "network", None)
    return None if network is None else network()


@functools.cache
def _tell(reason: str) -> None:
    """Once for each reason: many segmenters may follow each other in a process."""
    print(f"pspnet: only the network runs on the GPU, resizing and labels on the CPU: {reason}", file=sys.stderr)
