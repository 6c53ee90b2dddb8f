"""Live loops over cameras that a test holds in its hands."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from runtime.live import LiveSettings, run_live
from runtime.outlet import Outlet
from runtime.record import Record
from runtime.segmenter import CpuSegmenter
from tests.live_doubles import FakeCamera, FakeRunner, ListSink, until


class Run:
    """A live loop in a thread of its own, with two cameras, ended by `end`, which returns what the loop returned."""

    def __init__(self, runner: FakeRunner, *names: str, max_age_ms: float = 60_000, **options: Any) -> None:
        self.cameras = [FakeCamera(name, max_age_ms) for name in names]
        self.sink = options.pop("sink", None) or ListSink()
        self.outlets = [Outlet(self.sink, "list"), *options.pop("more_outlets", [])]
        self.stop, self.result, self.error = threading.Event(), None, None
        segmenter = options.pop("segmenter", None) or CpuSegmenter(runner)
        settings = options.pop("settings", LiveSettings())
        self._arguments = (self.cameras, segmenter, self.outlets, settings, self.stop)
        self._options = options
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        until(lambda: all(camera.started for camera in self.cameras))

    def _run(self) -> None:
        try:
            self.result = run_live(*self._arguments, **self._options)
        except Exception as error:
            self.error = error

    def of(self, name: str, valid: bool = True) -> list[Record]:
        return [record for record in list(self.sink.records) if record.camera == name and record.valid == valid]

    def end(self) -> Any:
        self.stop.set()
        self._thread.join(20)
        assert not self._thread.is_alive() and all(camera.stopped for camera in self.cameras) and self.sink.closed
        assert all(camera.lent == [] for camera in self.cameras)
        for camera in self.cameras:
            camera.close()
        return self.result


@contextlib.contextmanager
def runs() -> Iterator[Callable[..., Run]]:
    """A function that starts a Run; all of them end with the block."""
    started: list[Run] = []

    def start(*arguments: Any, **options: Any) -> Run:
        started.append(Run(*arguments, **options))
        return started[-1]

    yield start
    for run in started:
        if not run.stop.is_set():
            run.end()
