"""What a segmenter on the GPU asks of a network: memory at fixed addresses, and work in a stream."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from pspnet.spec import NetworkSpec
from runtime.cuda import Device, Stream
from runtime.cuda_pictures import DeviceLogits


class DeviceNetwork(Protocol):
    """A network on a GPU. name, engine and precision as of a `Runner`.

    largest_batch: most pictures of one run. input_address: of the pictures, (largest_batch, H, W, 3) uint8 RGB.
    on_close: what is called first when the network is closed, before anything that a graph may hold is freed.
    without_graphs: why its work cannot be captured into a CUDA graph, "" where it can.
    """

    name: str
    engine: str
    precision: str
    device: Device
    largest_batch: int
    input_address: int
    on_close: list[Callable[[], None]]
    without_graphs: str

    @property
    def spec(self) -> NetworkSpec: ...

    @property
    def provenance(self) -> dict[str, Any]:
        """As of a `Runner`."""
        ...

    def logits(self, index: int) -> DeviceLogits:
        """Where the logits of picture number `index` of a run are."""
        ...

    def prepare(self, count: int, stream: Stream) -> None:
        """Have ready what runs of `count` pictures need; the first time it allocates, runs once and waits."""
        ...

    def enqueue(self, count: int, stream: Stream) -> None:
        """Put a run of the first `count` pictures into the stream, after `prepare`; PspnetError where it is refused."""
        ...

    def capturing(self) -> AbstractContextManager[object]:
        """What must surround `enqueue` while a stream is captured."""
        ...

    def close(self) -> None:
        """Free its memory. A second time does nothing."""
        ...
