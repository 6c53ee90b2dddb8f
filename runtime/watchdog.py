"""A thread that ends the process when the engine hangs: nothing can be done about a call that never returns."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

ENGINE_EXIT = 70  # EX_SOFTWARE of sysexits.h
STOPPED_EXIT = 143  # as if SIGTERM had ended the process, which it would have without a handler
LOOK_S = 0.05
FLUSH_S = 1.2


class Stop(Protocol):
    """An event that is set when everything is to end; a threading.Event is one."""

    def is_set(self) -> bool: ...


class Watchdog:
    """Watches the calls made inside of `with watchdog.watching(deadline_s)`; one at a time.

    A call that takes longer, or that has not returned `stop_s` after `stop` was set, is given up: `flush` is called and
    has FLUSH_S, then the process ends with ENGINE_EXIT, or STOPPED_EXIT after a stop. leave: ends the process.
    """

    def __init__(
        self,
        stop: Stop,
        flush: Callable[[], None],
        stop_s: float = 0.6,
        leave: Callable[[int], object] = os._exit,
    ) -> None:
        self._stop, self._flush, self._stop_s, self._leave = stop, flush, stop_s, leave
        self._due_s: float | None = None
        self._stopped_s: float | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()

    @contextmanager
    def watching(self, deadline_s: float) -> Iterator[None]:
        """The block must end within `deadline_s`."""
        self._due_s = time.monotonic() + deadline_s
        try:
            yield
        finally:
            self._due_s = None

    def _watch(self) -> None:
        while not self._closed.wait(LOOK_S):
            due_s, now_s = self._due_s, time.monotonic()
            if self._stopped_s is None and self._stop.is_set():
                self._stopped_s = now_s
            if due_s is None:
                continue
            stopping = self._stopped_s is not None and now_s >= self._stopped_s + self._stop_s
            if stopping or now_s >= due_s:
                self._end(stopping)
                return

    def _end(self, stopping: bool) -> None:
        why = "though everything is to stop" if stopping else "within its deadline"
        print(f"pspnet: the engine has not returned {why}: the process ends without it", file=sys.stderr)
        # In a thread of its own: what has to be flushed may hang as well.
        flushing = threading.Thread(target=self._flush, name="flush", daemon=True)
        flushing.start()
        flushing.join(FLUSH_S)
        self._leave(STOPPED_EXIT if stopping else ENGINE_EXIT)
