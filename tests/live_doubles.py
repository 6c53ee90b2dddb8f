"""Cameras, engines and sinks for tests of the live loop, without processes, networks and clocks of their own."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from pspnet.spec import ModelSpec
from runtime.camera_settings import CameraSettings
from runtime.camera_state import CameraState
from runtime.camera_status import CameraStatus
from runtime.frame import Frame
from runtime.outlet import Sink
from runtime.record import Record
from runtime.runner import ClosingRunner

NAMES = ("road", "lane", "car", "sky", "tree")
SPEC = ModelSpec(
    "resnet18", 8, (1, 2, 3, 6), 8, 8, 8, NAMES, tuple((40 * i, 20 * i, 10 * i) for i in range(len(NAMES))), (96, 128),
    drivable=(0, 1),
)  # fmt: skip
SIZE = 72, 96


class FakeCamera:
    """A camera whose pictures the test puts in. released: sequences in the order in which they were given back."""

    def __init__(self, name: str, max_age_ms: float = 60_000, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self.name, self.settings = name, CameraSettings(name, "test://pattern", max_age_ms=max_age_ms)
        self.state, self.since_ns, self.message, self.cause = CameraState.RUNNING, 0, "", ""
        self.lent: list[int] = []
        self.released: list[int] = []
        self.started = self.stopped = False
        self._clock_ns, self._sequence = clock_ns, 0
        self._waiting: Frame | None = None
        self._lock = threading.Lock()
        self.wakeup, self._bell = os.pipe()
        os.set_blocking(self.wakeup, False)

    def put(
        self,
        image: np.ndarray | None = None,
        layout: str = "bgr",
        captured_ns: int | None = None,
        sensor_ago_ms: float | None = None,
    ) -> Frame:
        """A new picture, in place of one that was not taken. sensor_ago_ms: how old it was when it arrived."""
        now_ns = self._clock_ns() if captured_ns is None else captured_ns
        sensor_ns = None if sensor_ago_ms is None else now_ns - int(sensor_ago_ms * 1e6)
        image = np.zeros((*SIZE, 3), np.uint8) if image is None else image
        with self._lock:
            self._waiting = Frame(image, layout, self.name, self._sequence, now_ns, 0, sensor_ns=sensor_ns)
            self._sequence += 1
            os.write(self._bell, b".")
            return self._waiting

    def start(self) -> None:
        self.started = True

    def take(self) -> Frame | None:
        with self._lock:
            frame, self._waiting = self._waiting, None
            if frame is not None:
                os.read(self.wakeup, 4096)
                self.lent.append(frame.sequence)
        return frame

    def release(self, frame: Frame) -> None:
        self.lent.remove(frame.sequence)
        self.released.append(frame.sequence)

    def status(self) -> CameraStatus:
        return CameraStatus(
            self.name, "test://pattern", self.state, self.since_ns, self.cause, self.message, 30.0, self._sequence,
            {}, 0, 0, "none", SIZE, 0.0, 0, 0, None, (),
        )  # fmt: skip

    def request_stop(self, deadline_s: float) -> None:
        self.state = CameraState.STOPPED

    def stop(self, deadline_s: float) -> None:
        self.stopped = True

    def close(self) -> None:
        """Give the pipe back."""
        os.close(self.wakeup)
        os.close(self._bell)


class FakeRunner(ClosingRunner):
    """Gives the same logits for every picture, after `before_infer`, which may wait or raise. batches: their sizes."""

    engine = precision = "none"

    def __init__(self, logits: np.ndarray | None = None, spec: Any = SPEC, most: int = 8) -> None:
        self.spec = spec
        if logits is None:
            logits = np.random.default_rng(0).standard_normal((spec.classes, 12, 16)).astype(np.float32)
        self._logits = np.stack([logits] * most)
        self.batches: list[int] = []
        self.before_infer: Callable[[], object] = lambda: None

    @property
    def tried(self) -> bool:
        """Whether the live loop has made its two calls before the first picture."""
        return len(self.batches) >= 2

    def infer(self, images: np.ndarray) -> np.ndarray:
        self.before_infer()
        self.batches.append(len(images))
        return self._logits[: len(images)]


class ListSink(Sink):
    """Keeps every record. wants: what it reads."""

    def __init__(self, wants: frozenset[str] = frozenset()) -> None:
        self.wants = wants
        self.records: list[Record] = []
        self.closed = False

    def __call__(self, record: Record) -> None:
        self.records.append(record)

    def close(self) -> None:
        self.closed = True


class Clock:
    """Time that the test sets, in nanoseconds."""

    def __init__(self) -> None:
        self.now_ns = 10**12

    def __call__(self) -> int:
        return self.now_ns

    def pass_ms(self, milliseconds: float) -> None:
        """Let time go by."""
        self.now_ns += int(milliseconds * 1e6)


def until(condition: Callable[[], object], deadline_s: float = 20.0) -> None:
    """Wait for a condition; AssertionError where it does not come true."""
    end_s = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end_s, "the condition did not come true"
        time.sleep(0.005)
