"""The primary context of a GPU: current per thread, its errors as one line, and all that must be freed before it."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

from pspnet.errors import PspnetError
from runtime.cuda_backend import Backend
from runtime.cuda_driver import OUT_OF_MEMORY, STICKY, CudaError, CudaOutOfMemory, DriverFailure

MEBIBYTE = 2**20
_thread = threading.local()


class Context:
    """A retained primary context, which the CUDA runtime, TensorRT and torch share with us."""

    def __init__(self, backend: Backend, index: int, name: str) -> None:
        self.backend, self.name = backend, name
        self.lost = ""
        self._native = backend.retain_context(index)
        self._living: list[Resource] = []
        self._lock = threading.Lock()
        self._current = Current(self)
        # At the interpreter's end nothing is freed in a safe order, and PyCUDA aborts the process.
        atexit.register(self._close_at_exit)

    def current(self) -> Current:
        """The context for the `with` block, on the calling thread. Re-entrant, on any number of threads."""
        if self._native is None:
            raise ValueError(f"the device {self.name} is closed")
        return self._current

    def call(
        self, function: Callable[..., Any], *arguments: Any, needed_bytes: int | None = None, of_host: bool = False
    ) -> Any:
        """A call of the backend with the context current; CudaError or CudaOutOfMemory where it fails.

        needed_bytes: what it allocates, of_host: from the CPU's memory.
        """
        if self.lost:
            raise CudaError(f"the GPU {self.name} is lost to this process since {self.lost}. Start the command again")
        try:
            with self.current():
                return function(*arguments)
        except DriverFailure as failure:
            raise self.error_from(failure, needed_bytes, of_host) from None

    def keep(self, resource: Resource) -> None:
        """Free a resource with the context, if nobody has by then."""
        with self._lock:
            self._living.append(resource)

    def forget(self, resource: Resource) -> bool:
        """False where the resource has been freed, by whichever thread."""
        with self._lock:
            if living := resource in self._living:
                self._living.remove(resource)
        return living

    def close(self) -> None:
        """Wait for every stream, free what lives in order, give the context back. A second time does nothing.

        Of a lost GPU nothing is asked any more.
        """
        if self._native is None:
            return
        if _stack():
            raise RuntimeError("a device is closed outside of every `with device.current()`")
        atexit.unregister(self._close_at_exit)
        waits = [resource.finish for resource in self._living]
        frees = [resource.free for resource in sorted(reversed(self._living), key=lambda living: living.order)]
        errors = [] if self.lost else [_error_of(step) for step in (self._ask, *waits)]
        errors += [_error_of(step) for step in (*frees, self._release)]
        if first := next(filter(None, errors), None):
            raise first

    def _ask(self) -> None:
        """Let the driver report what has gone wrong, before anything is destroyed."""
        self.call(self.backend.memory_bytes)

    def _release(self) -> None:
        native, self._native = self._native, None
        if self.lost:
            return self.backend.abandon(native)
        try:
            self.backend.release_context(native)
        except DriverFailure as failure:
            self.backend.abandon(native)
            raise self.error_from(failure) from None

    def _close_at_exit(self) -> None:
        with suppress(PspnetError):  # the process ends, and nobody waits for results
            self.close()

    def error_from(self, failure: DriverFailure, needed_bytes: int | None = None, of_host: bool = False) -> PspnetError:
        """What the user is told of a failure; a sticky one makes the context lost."""
        if failure.code == OUT_OF_MEMORY:
            return self._out_of_memory(failure, needed_bytes, of_host)
        if failure.code in STICKY:
            self.lost = self.lost or str(failure)
            return CudaError(f"{failure}. The GPU {self.name} is lost to this process: start the command again")
        return CudaError(failure.line())

    def _out_of_memory(self, failure: DriverFailure, needed_bytes: int | None, of_host: bool) -> CudaOutOfMemory:
        where = "in the CPU's memory, which is to be page-locked" if of_host else f"on {self.name}"
        needed = "more" if needed_bytes is None else f"{needed_bytes / MEBIBYTE:,.1f} MiB"
        free, total = _host_memory_bytes() if of_host else self._memory_bytes()
        left = "" if free is None else f", {free / MEBIBYTE:,.1f} of {total / MEBIBYTE:,.1f} MiB free"
        return CudaOutOfMemory(
            f"{failure}: {needed} needed{left} {where}. End other programs, or take a smaller batch or size",
            needed_bytes, free,
        )  # fmt: skip

    def _memory_bytes(self) -> tuple[int | None, int]:
        try:
            with self.current():
                return self.backend.memory_bytes()
        except (DriverFailure, PspnetError):
            return None, 0


class Current:
    """`with device.current():` pushes the context unless it is on top, and leaves the thread as it was."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def __enter__(self) -> None:
        stack = _stack()
        if not stack or stack[-1] is not self._context:
            try:
                self._context.backend.push(self._context._native)
            except DriverFailure as failure:
                raise self._context.error_from(failure) from None
        stack.append(self._context)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stack = _stack()
        stack.pop()
        if stack and stack[-1] is self._context:
            return
        try:
            self._context.backend.pop()
        except DriverFailure as failure:
            told = self._context.error_from(failure)
            if kind is None:  # otherwise the block's own error says more
                raise told from None


class Resource:
    """What lives in a context until it is freed, or until the context is closed. order: what goes first then."""

    order = 0
    kind = "resource"

    def __init__(self, context: Context, native: Any, destroy: Callable[[Any], None]) -> None:
        self._context, self._native, self._destroy = context, native, destroy
        context.keep(self)

    @property
    def native(self) -> Any:
        """What the backend knows it by; ValueError once it has been freed."""
        if self._native is None:
            raise ValueError(f"this {self.kind} has been freed")
        return self._native

    def finish(self) -> None:
        """Wait for what is under way in it: streams do."""

    def free(self) -> None:
        """Free it now. A second time does nothing; nor does a lost device, of which nothing is left."""
        if not self._context.forget(self):
            return
        native, self._native = self._native, None
        if self._context.lost:
            return self._context.backend.abandon(native)
        try:
            self._context.call(self._destroy, native)
        except PspnetError:
            self._context.backend.abandon(native)
            raise

    close = free


def _error_of(step: Callable[[], None]) -> PspnetError | None:
    try:
        step()
    except PspnetError as error:
        return error
    return None


def _host_memory_bytes() -> tuple[int | None, int]:
    page = os.sysconf("SC_PAGE_SIZE")
    return os.sysconf("SC_AVPHYS_PAGES") * page, os.sysconf("SC_PHYS_PAGES") * page


def _stack() -> list[Context]:
    """The contexts that are current on this thread, the innermost last."""
    if not hasattr(_thread, "stack"):
        _thread.stack = []
    return _thread.stack
