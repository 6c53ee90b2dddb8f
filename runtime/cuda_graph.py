"""CUDA graphs through ctypes on the driver, on streams of either backend: PyCUDA has no capture."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pspnet.errors import PspnetError
from runtime.cuda_context import Context, Resource
from runtime.cuda_driver import driver_call
from runtime.cuda_resources import Stream

THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: calls of other threads neither break the capture nor fail because of it."""

EXTERNAL = 1
"""CU_EVENT_RECORD_EXTERNAL: a node of the graph notes the time; without it a captured event only orders work."""


class Graph(Resource):
    """Work that was captured once and is launched as one. It repeats the captured addresses and sizes."""

    order, kind = 0, "graph"

    def __init__(self, context: Context) -> None:
        super().__init__(context, None, _destroy)

    @property
    def native(self) -> int:
        """The CUgraphExec; ValueError before the capture has ended, and after close()."""
        if self._native is None:
            raise ValueError("this graph holds no finished capture, or has been freed")
        return self._native

    def launch(self, stream: Stream) -> None:
        """Put the captured work into a stream."""
        self._context.call(driver_call, "cuGraphLaunch", ctypes.c_void_p(self.native), ctypes.c_void_p(stream.handle))

    def fill(self, executable: int) -> None:
        """Take the CUgraphExec of a capture that has ended."""
        self._native = executable


class Mark(Resource):
    """A moment in a stream, as an Event; what a graph holds of it notes the moment anew each time the graph runs."""

    order, kind = 2, "mark"

    def __init__(self, context: Context) -> None:
        event = ctypes.c_void_p()
        context.call(driver_call, "cuEventCreate", ctypes.byref(event), ctypes.c_uint(0))
        super().__init__(context, event, _destroy_mark)

    def record(self, stream: Stream, captured: bool) -> None:
        """Let the moment be when the stream has done what is in it now. captured: into a graph."""
        flags = ctypes.c_uint(EXTERNAL if captured else 0)
        self._context.call(
            driver_call, "cuEventRecordWithFlags", self.native, ctypes.c_void_p(stream.handle), flags
        )  # fmt: skip

    def elapsed_ms(self, earlier: Mark) -> float:
        """Milliseconds from `earlier`, both recorded and reached."""
        elapsed_ms = ctypes.c_float()
        self._context.call(
            driver_call, "cuEventElapsedTime", ctypes.byref(elapsed_ms), earlier.native, self.native
        )  # fmt: skip
        return elapsed_ms.value


@contextmanager
def capture(context: Context, stream: Stream) -> Iterator[Graph]:
    """`with capture(context, stream) as graph:` records; the graph can be launched after the block."""
    handle = ctypes.c_void_p(stream.handle)
    with context.current():  # what is captured may be calls of TensorRT
        context.call(driver_call, "cuStreamBeginCapture_v2", handle, ctypes.c_int(THREAD_LOCAL))
        graph = Graph(context)
        try:
            try:
                yield graph
            except BaseException:
                with suppress(PspnetError):  # the block's own error says more
                    context.call(_ended, handle, False)
                raise
            graph.fill(context.call(_ended, handle, True))
        except BaseException:
            graph.free()
            raise


def _ended(stream: ctypes.c_void_p, wanted: bool) -> int:
    """End a capture; the CUgraphExec of what it holds, or 0 where it is not wanted."""
    captured, executable = ctypes.c_void_p(), ctypes.c_void_p()
    driver_call("cuStreamEndCapture", stream, ctypes.byref(captured))
    try:
        if wanted:  # cuGraphInstantiate changed its arguments in CUDA 12; this one is the same from 11.4 on
            driver_call("cuGraphInstantiateWithFlags", ctypes.byref(executable), captured, ctypes.c_ulonglong(0))
    finally:
        driver_call("cuGraphDestroy", captured)
    return executable.value or 0


def _destroy(executable: int | None) -> None:
    if executable:
        driver_call("cuGraphExecDestroy", ctypes.c_void_p(executable))


def _destroy_mark(event: ctypes.c_void_p) -> None:
    driver_call("cuEventDestroy_v2", event)
