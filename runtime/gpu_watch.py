"""What an operator should know of the GPU that a run is on: power and clocks, and which of its short cuts it lacks."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from runtime.cuda_segmenter import CudaSegmenter
from runtime.power import PowerWatch
from runtime.segmenters import AnySegmenter
from runtime.telemetry import Telemetry


class GpuWatch:
    """Watches the GPU inside of its `with` block where the network is on one."""

    def __init__(self, segmenter: AnySegmenter, telemetry: Telemetry) -> None:
        self._segmenter = segmenter
        self._on_gpu = isinstance(segmenter, CudaSegmenter) or bool(segmenter.without_kernels)
        self._power, self._stack = PowerWatch(telemetry), ExitStack()

    def __enter__(self) -> GpuWatch:
        if self._on_gpu:
            self._stack.enter_context(self._power)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def facts(self) -> dict[str, Any] | None:
        """For --json; None on a CPU."""
        if not self._on_gpu:
            return None
        facts = {"power": self._power.summary(), "without_kernels": self._segmenter.without_kernels}
        if isinstance(self._segmenter, CudaSegmenter):
            return {
                "name": self._segmenter.runner.device.name, **facts,
                "without_graphs": self._segmenter.without_graphs, "copied": self._segmenter.picture_refusals,
            }  # fmt: skip
        return {"name": (self._segmenter.runner.provenance.get("gpu") or {}).get("name"), **facts}

    def tell(self) -> None:
        """Print the figures, and what makes the run slower than it could be, but what was told at its begin."""
        if self._on_gpu and (line := self._power.line()):
            print(line)
        if not isinstance(self._segmenter, CudaSegmenter):
            return
        if reason := self._segmenter.without_graphs:
            print(f"pspnet: without CUDA graphs: {reason}", file=sys.stderr)
        for camera, reason in self._segmenter.picture_refusals.items():
            print(f"pspnet: pictures of {camera} are copied once more: {reason}", file=sys.stderr)
