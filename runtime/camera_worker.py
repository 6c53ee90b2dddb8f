"""The process of one camera: opens it, reads it, and puts its pictures into shared memory.

It is started fresh (not forked) as `python -c … NAME DESCRIPTOR`, obeys the messages on that socket, and dies with its
parent. What it tells the parent is JSON, never pickle: a decoder that a hostile stream took over must not get further.

    parent: open, close, leave, ring (with a descriptor)        worker: ready, opened, lost, closed, need, uses
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import os
import pickle
import queue
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from pspnet.errors import PspnetError
from pspnet.spec import LARGEST_SIDE
from runtime import yuv
from runtime.camera_pace import SECOND_NS, Pace, StampCheck, StormGuard, restart_ns
from runtime.camera_settings import CameraSettings
from runtime.camera_uri import CameraUri
from runtime.capture import Capture, Picture, open_capture
from runtime.capture_errors import CaptureError
from runtime.frame import FORMATS
from runtime.frame_ring import MATRICES, Channel, Gauges, Ring, Token, Writer
from runtime.frozen import FrozenWatch

PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15
RING_DEADLINE_S, PARENT_GONE_S = 5.0, 1.0
LARGEST_MESSAGE_BYTES = 1 << 16
MESSAGE_CHARACTERS = 1000
ROTATIONS = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}


@dataclass(frozen=True)
class Charge:
    """What a worker is told at its start. gentle: it is never killed, and leaves in order when it gets SIGTERM."""

    settings: CameraSettings
    uri: CameraUri
    channel: tuple[int, int, int, int]
    gauges: int
    parent_pid: int
    gentle: bool


class GiveUp(Exception):
    """This connection must be given up. cause as in a camera's status."""

    def __init__(self, message: str, cause: str) -> None:
        super().__init__(message)
        self.cause = cause


class Worker:
    """One camera's reader; `run` returns when the parent says so."""

    def __init__(self, charge: Charge, control: socket.socket) -> None:
        self._settings, self._gentle, self._control = charge.settings, charge.gentle, control
        self._gauges = Gauges(charge.gauges)
        self._uri = replace(charge.uri, memory=self._gauges.script) if charge.uri.scheme == "test" else charge.uri
        mailbox_out, mailbox_in, returns_out, returns_in = charge.channel
        self._writer = Writer(Channel((mailbox_out, mailbox_in), (returns_out, returns_in)))
        self._orders: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._rings: queue.SimpleQueue[tuple[Ring, list[int]] | str] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._capture: Capture | None = None

    def run(self) -> None:
        """Obey until told to leave."""
        threading.Thread(target=self._listen, daemon=True).start()
        if self._gentle:
            threading.Thread(target=self._await_sigterm, daemon=True).start()
        self._say("ready")
        while self._orders.get() == "open":
            self._serve()
            self._say("closed")

    def _serve(self) -> None:
        """One connection, from open to close."""
        try:
            count_damaged = functools.partial(self._gauges.count, "corrupt")
            self._capture = open_capture(self._uri, self._settings.open_deadline_s, count_damaged)
            self._say("opened", decoder=self._capture.decoder)
            self._read(self._capture)
        except (PspnetError, GiveUp) as error:
            if not self._closing.is_set():
                message = self._uri.scrubbed(str(error))[:MESSAGE_CHARACTERS]
                self._say("lost", cause=getattr(error, "cause", "refused"), message=message)
        finally:
            capture, self._capture = self._capture, None
            if capture is not None:
                capture.close()

    def _read(self, capture: Capture) -> None:
        settings = self._settings
        pace, stamps = Pace(settings.fps), StampCheck()
        guard = StormGuard(settings.fps, settings.max_fps)
        frozen = FrozenWatch(settings.frozen_limit_s(self._uri))
        while not self._closing.is_set():
            patience_ns = restart_ns(pace.period_ns, settings.restart_after_s, settings.open_deadline_s)
            try:
                picture = capture.read(patience_ns / SECOND_NS)
                captured_ns = time.monotonic_ns()
                check_sound(picture)
            except CaptureError as error:
                if error.cause != "corrupt":
                    raise
                self._gauges.count("corrupt")
                continue
            pace.arrived(captured_ns)
            sequence = self._gauges["frames"]
            passes = guard.passes(captured_ns)
            if passes:
                frozen.see(picture.image, picture.format, captured_ns, picture.sensor_ns)
                sensor_ns = stamps.checked(picture.sensor_ns, captured_ns)
                self._gauges.count("stamps_invalid", bool(stamps.invalid))
                self._publish(replace(picture, sensor_ns=sensor_ns), sequence, captured_ns)
            else:
                self._gauges.count("storm")
            self._gauge(pace, frozen, captured_ns)
            if guard.lasting:
                raise GiveUp(f"a storm of pictures: more than {guard.limit_fps:.0f} a second for 3 s", "storm")

    def _gauge(self, pace: Pace, frozen: FrozenWatch, captured_ns: int) -> None:
        gauges = self._gauges
        gauges["period_ns"] = pace.period_ns
        gauges["fps_milli"] = 1000 * SECOND_NS // pace.measured_ns if pace.measured_ns else 0
        gauges["frozen"], gauges["repeated"] = frozen.frozen, frozen.repeated
        gauges["last_frame_ns"] = captured_ns
        gauges.count("frames")

    def _publish(self, picture: Picture, sequence: int, captured_ns: int) -> None:
        image, layout = picture.image, picture.format
        if self._settings.rotate:
            image, layout = self._upright(picture), "bgr" if layout in yuv.FORMATS else layout
        self._ensure_ring(image.nbytes)
        slot, dropped = self._writer.slot()
        self._gauges.count("busy", dropped)
        if slot is None:
            self._gauges.count("held")
            return
        assert self._writer.ring is not None
        np.copyto(self._writer.ring.picture(slot, image.shape), image)
        token = Token(
            self._writer.ring.number, slot, sequence, captured_ns, picture.sensor_ns, image.shape, layout,
            picture.matrix, picture.full_range,
        )  # fmt: skip
        self._gauges["height"], self._gauges["width"] = size_of(image, layout)
        self._gauges.count("busy", self._writer.publish(token))

    def _upright(self, picture: Picture) -> np.ndarray:
        image = picture.image
        if picture.format in yuv.FORMATS:
            image = yuv.bgr_from_yuv(image, picture.format, picture.matrix, picture.full_range)
        return cv2.rotate(image, ROTATIONS[self._settings.rotate])

    def _ensure_ring(self, picture_bytes: int) -> None:
        """A ring that holds such pictures: the one that is used, one that was sent, or one that is asked for."""
        asked = False
        while self._writer.ring is None or self._writer.ring.slot_bytes < picture_bytes:
            try:
                sent = self._rings.get(timeout=RING_DEADLINE_S if asked else 0)
            except queue.Empty:
                if asked:
                    raise GiveUp("no shared memory came from the main process", "memory") from None
                self._say("need", bytes=picture_bytes)
                asked = True
                continue
            if isinstance(sent, str):
                raise GiveUp(sent, "memory")
            self._gauges.count("busy", self._writer.use(*sent))
            self._say("uses", ring=sent[0].number)

    def _listen(self) -> None:
        """Takes the parent's messages, also while a read blocks."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # it is for the thread that reads, or for none
        while True:
            data, descriptors, _, _ = socket.recv_fds(self._control, LARGEST_MESSAGE_BYTES, 1)
            message: dict[str, Any] = json.loads(data) if data else {"do": "leave"}
            if message["do"] == "ring":
                ring = Ring(message["number"], descriptors[0], message["slot_bytes"], message["slots"])
                self._rings.put((ring, message["free"]))
            elif message["do"] == "no_ring":
                self._rings.put(message["message"])
            elif message["do"] == "open":
                self._closing.clear()
                self._orders.put("open")
            else:
                self._interrupt()
                if message["do"] == "leave":
                    self._orders.put("leave")
            if not data:  # the parent is gone, and nobody is left to end a read that never returns
                time.sleep(PARENT_GONE_S)
                if not self._gentle:
                    os._exit(1)
                return

    def _await_sigterm(self) -> None:
        signal.sigwait({signal.SIGTERM})
        self._interrupt()
        self._orders.put("leave")

    def _interrupt(self) -> None:
        self._closing.set()
        capture = self._capture
        if capture is not None:
            capture.interrupt()

    def _say(self, what: str, **more: object) -> None:
        try:
            self._control.send(json.dumps({"say": what, **more}).encode())
        except OSError:  # the parent is gone, which the listener sees too
            self._closing.set()


def check_sound(picture: Picture) -> None:
    """CaptureError with cause corrupt where a picture is none that `Frame` can hold."""
    image = picture.image
    dimensions = {"grey": 2, "nv12": 2}.get(picture.format, 3)
    sound = picture.format in FORMATS and picture.matrix in MATRICES
    sound = sound and image.dtype == np.uint8 and image.ndim == dimensions and image.size > 0
    if sound and picture.format in yuv.FORMATS:
        try:
            yuv.size_of(image, picture.format)
        except PspnetError:
            sound = False
    elif sound and dimensions == 3:
        sound = image.shape[2] == 3
    if not sound or max(image.shape[:2]) > LARGEST_SIDE:
        raise CaptureError(f"a picture of format {picture.format} is {image.dtype} {image.shape}", "corrupt")


def size_of(image: np.ndarray, layout: str) -> tuple[int, int]:
    """(height, width) of a picture in any of `Frame`'s formats."""
    return yuv.size_of(image, layout) if layout in yuv.FORMATS else (image.shape[0], image.shape[1])


def main() -> None:
    """The worker's life; its command line is NAME DESCRIPTOR."""
    name, descriptor = sys.argv[1], int(sys.argv[2])
    control = socket.socket(fileno=descriptor)
    charge: Charge = pickle.loads(control.recv(LARGEST_MESSAGE_BYTES))
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_NAME, f"cam:{name}".encode()[:15], 0, 0, 0)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM if charge.gentle else signal.SIGKILL, 0, 0, 0)
    if os.getppid() != charge.parent_pid:
        os._exit(1)
    if charge.gentle:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    cv2.setNumThreads(1)  # one core a camera; decoders have threads of their own
    if os.sched_getscheduler(charge.parent_pid) == os.SCHED_OTHER:  # then WorkerLink made a batch task of the imports
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    Worker(charge, control).run()
    os._exit(0)  # the capture is closed; what native libraries do at exit may hang
