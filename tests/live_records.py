"""Records of live cameras for tests, and sinks that behave as badly as real ones."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np

from pspnet.geometry import Geometry
from pspnet.spec import IGNORE, ModelSpec
from runtime.frame import Frame, Segmentation
from runtime.outlet import Sink
from runtime.record import Record, record_from

SPEC = ModelSpec(
    "mobilenet_v2", 32, (1, 2, 3), 8, 8, 8, ("Road", "Tree", "Sky"), ((128, 64, 128), (0, 250, 0), (70, 130, 250)),
    (96, 96), drivable=(0,), licence="a licence",
)  # fmt: skip
PATIENCE_S = 20.0  # for threads and processes of a loaded machine; nothing here takes a tenth of it on an idle one


def result_of(
    sequence: int = 0,
    size: tuple[int, int] = (48, 64),
    camera: str = "front",
    age_ms: float = 0.0,
    confidence: float | None = None,
    level: int = 90,
) -> Segmentation:
    """Stripes of the three classes that move with `sequence`, the upper quarter unlabelled, over an even grey."""
    stripes = (np.arange(size[1]) // 8 + sequence) % 3
    labels = np.ascontiguousarray(np.broadcast_to(stripes, size), np.uint8)
    labels[: size[0] // 4] = IGNORE
    captured_ns = time.monotonic_ns() - int(age_ms * 1e6)
    picture = np.full((*size, 3), level, np.uint8)
    frame = Frame(picture, "bgr", camera, sequence, captured_ns, time.time_ns() - int(age_ms * 1e6))
    sure = None if confidence is None else np.full(size, round(255 * confidence), np.uint8)
    return Segmentation(frame, labels, {"infer": 1.23456}, Geometry(size, SPEC.input_size), sure)


def record_of(
    sequence: int = 0,
    size: tuple[int, int] = (48, 64),
    camera: str = "front",
    age_ms: float = 0.0,
    confidence: float | None = None,
    max_age_ms: float | None = None,
) -> Record:
    """The record of `result_of`."""
    return record_from(result_of(sequence, size, camera, age_ms, confidence), SPEC, max_age_ms)


def until(condition: Callable[[], bool], what: str = "the condition") -> None:
    """Wait for a condition; AssertionError where it does not come true."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"{what} did not come true within {PATIENCE_S:g} s"
        time.sleep(0.002)


class Keeping(Sink):
    """Notes what it is given, without keeping the records."""

    def __init__(self, live: bool = True, idle_s: float | None = None) -> None:
        self.live, self.idle_s = live, idle_s
        self.seen: list[tuple[str, int, bool]] = []
        self.closed = self.idled = 0

    def __call__(self, record: Record) -> None:
        self.seen.append((record.camera, record.sequence, record.valid))

    def idle(self) -> None:
        self.idled += 1

    def close(self) -> None:
        self.closed += 1


class Blocking(Keeping):
    """Does not return from a record until `go` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.go, self.entered = threading.Event(), threading.Event()

    def __call__(self, record: Record) -> None:
        self.entered.set()
        self.go.wait()
        super().__call__(record)


class Failing(Keeping):
    """Raises `error` for as long as it is one."""

    def __init__(self, error: BaseException | None) -> None:
        super().__init__()
        self.error, self.calls = error, 0

    def __call__(self, record: Record) -> None:
        self.calls += 1
        if self.error is not None:
            raise self.error
        super().__call__(record)
