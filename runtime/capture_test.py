"""test:// cameras: a moving pattern or a clip, and any fault of runtime/fault_script.py.

    test://pattern?size=360x480&fps=30&seed=0&format=bgr|nv12|yuyv|uyvy&code=1&script=…&loop=1
    test://road.mp4?fps=25&script=…          the clip's pictures, again and again, at the clip's size and rate

Each picture carries its number as in runtime/frame_code.py, where it is large enough and code=0 does not leave it out.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pspnet.errors import PspnetError
from runtime import fault_script
from runtime.camera_uri import CameraUri
from runtime.capture import Picture
from runtime.capture_errors import CaptureBroken, CaptureEnded, CaptureRefused, CaptureTimeout
from runtime.pattern import Pattern, packed_from_bgr
from runtime.source import open_source

FPS, SIZE = 30, "360x480"
LOOKS = ("still", "dark", "black", "white", "cover")
FUTURE_NS, BACKWARD_NS = 3600 * 10**9, 10**8
CRASH_STATUS = 139  # what a shell reports of a segmentation fault


class TestCapture:
    """A camera that suffers its script. It keeps pace on its own: who reads late loses pictures, as with a real one."""

    __test__ = False  # pytest must not take it for a test
    decoder = "none (test pattern)"

    def __init__(self, uri: CameraUri, clip: Iterator[np.ndarray] | None, size: tuple[int, int], fps: float) -> None:
        self._uri, self._clip, self._size, self._fps = uri, clip, size, fps
        self._script = script_of(uri)
        self._interrupted = threading.Event()
        self._pattern: Pattern | None = None
        self._pattern_size = (0, 0)
        self._last: Picture | None = None
        self._next_ns = time.monotonic_ns()
        self._lost: list[bytes] = []
        self._stamp_ns = self._next_ns
        if clip is not None:
            self.decoder = "FFmpeg (software), played by the test camera"

    def read(self, deadline_s: float) -> Picture:
        end_ns = time.monotonic_ns() + int(deadline_s * 1e9)
        while True:
            now_ns = time.monotonic_ns()
            step = self._script.current(now_ns)
            if step.action == "stall":
                self._wait(now_ns + int(self._script.remaining_s(now_ns) * 1e9), end_ns)
                self._next_ns = time.monotonic_ns()
                continue
            self._suffer(step)
            period_ns = int(1e9 / self._fps / (step.amount if step.action == "storm" else 1))
            self._wait(self._next_ns, end_ns)
            late = max(time.monotonic_ns() - self._next_ns, 0) // period_ns
            self._next_ns += (late + 1) * period_ns
            self._script.count_pictures(late + 1)
            if step.action == "drop" and self._chance() < step.amount / 100:
                continue
            picture = self._picture(step)
            if step.action == "slow":
                self._wait(time.monotonic_ns() + int(step.amount * 1e9), end_ns)
            if step.action == "corrupt":
                self._script.happened()
                raise CaptureBroken("test camera: a picture arrived damaged", "corrupt")
            return picture

    def interrupt(self) -> None:
        self._interrupted.set()

    def close(self) -> None:
        self._interrupted.set()

    def _suffer(self, step: fault_script.Step) -> None:
        """What ends the connection or more; returns where a picture is to be given."""
        if step.action == "refuse":
            raise CaptureBroken("test camera: the connection broke")
        if step.action in (*fault_script.INSTANT, "resize"):
            self._script.happened()
        if step.action == "cut":
            raise CaptureBroken("test camera: the connection broke")
        if step.action == "end":
            raise CaptureEnded("test camera: the source is at its end")
        if step.action == "crash":
            os._exit(CRASH_STATUS)
        if step.action == "deaf":
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        while step.action in ("hang", "deaf"):
            time.sleep(3600)
        if step.action == "leak":
            self._lost.append(os.urandom(int(step.amount) * 1000))

    def _wait(self, until_ns: int, end_ns: int) -> None:
        seconds = (min(until_ns, end_ns) - time.monotonic_ns()) / 1e9
        if self._interrupted.wait(max(seconds, 0)):
            raise CaptureBroken("test camera: the read was interrupted")
        if until_ns > end_ns:
            raise CaptureTimeout("test camera: no picture came within the deadline")

    def _chance(self) -> float:
        return float(np.random.default_rng((self._uri.number("seed", 0), self._script.sequence)).random())

    def _picture(self, step: fault_script.Step) -> Picture:
        if step.action == "freeze" and self._last is not None:
            self._last = self._stamped(self._last.image, step)
            return self._last
        size = self._script.size or self._size
        if self._pattern is None or size != self._pattern_size:
            self._pattern = Pattern(size, self._uri.number("seed", 0), self._uri.options.get("code", "1") == "1")
            self._pattern_size = size
        scene = next(self._clip) if self._clip is not None else None
        image = self._pattern.draw(self._script.sequence, step.action if step.action in LOOKS else "", scene)
        layout = self._uri.options.get("format", "bgr")
        if layout != "bgr":
            image = packed_from_bgr(image, layout, *self._colour)
        self._last = self._stamped(image, step)
        return self._last

    @property
    def _colour(self) -> tuple[str, bool]:
        return self._uri.options.get("matrix", "601"), self._uri.options.get("range") == "full"

    def _stamped(self, image: np.ndarray, step: fault_script.Step) -> Picture:
        kind = step.word if step.action == "stamps" else ""
        now_ns = time.monotonic_ns()
        self._stamp_ns = self._stamp_ns - BACKWARD_NS if kind == "backward" else now_ns
        stamps = {"zero": 0, "future": now_ns + FUTURE_NS, "none": None}
        return Picture(image, self._uri.options.get("format", "bgr"), *self._colour, stamps.get(kind, self._stamp_ns))


def script_of(uri: CameraUri) -> fault_script.Script:
    """The script of a test:// camera, at the place that the address remembers."""
    steps = fault_script.parse(uri.options.get("script", ""))
    return fault_script.Script(steps, uri.memory, uri.options.get("loop") == "1")


def open_test(uri: CameraUri, deadline_s: float) -> TestCapture:
    """The test camera, or the refusal of its script."""
    script = script_of(uri)
    now_ns = time.monotonic_ns()
    step = script.current(now_ns)
    if step.action == "refuse":
        script.happened()
        if step.word == "timeout":
            time.sleep(deadline_s)
            raise CaptureTimeout("test camera: it accepted and never answered")
        raise CaptureRefused("test camera: refused by its script", step.word)
    if uri.address == "pattern":
        height, width = (int(side) for side in uri.options.get("size", SIZE).split("x"))
        return TestCapture(uri, None, (height, width), uri.number("fps", FPS))
    return _clip(uri)


def _clip(uri: CameraUri) -> TestCapture:
    if not Path(uri.address).is_file():
        raise CaptureRefused(f"{uri}: there is no clip {uri.address}. Give a clip, or test://pattern", "not_found")
    try:
        source = open_source(uri.address)
    except PspnetError as error:
        raise CaptureRefused(f"{uri}: {error}", "codec") from error
    if source.size is None or source.live:
        raise CaptureRefused(f"{uri}: {uri.address} is no clip. Give a clip, or test://pattern", "codec")
    size = source.size
    if "size" in uri.options:
        height, width = (int(side) for side in uri.options["size"].split("x"))
        size = height, width

    def pictures() -> Iterator[np.ndarray]:
        while True:
            for frame in source:
                yield frame.image

    return TestCapture(uri, pictures(), size, float(uri.options.get("fps", source.fps or FPS)))
