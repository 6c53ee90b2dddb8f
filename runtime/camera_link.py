"""The parent's hold on a camera's process: starts it, talks with it without ever waiting for it, and ends it."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import replace

from runtime.camera_uri import CameraUri, names_expanded
from runtime.camera_worker import Charge
from runtime.frame_ring import Ring

START = "import sys; sys.path[:] = sys.argv.pop().split(chr(0x1f)); from runtime.camera_worker import main; main()"
"""A module by its name would be looked for in the working directory first."""

KEPT = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LANGUAGE|LC_\w+|TZ|TMPDIR|LD_\w+|PYTHON\w+|VIRTUAL_ENV|GST_\w+|GIO_\w+|OPENCV_\w+"
    r"|OPENBLAS_\w+|OMP_\w+|CUDA_\w+|NVIDIA_\w+|EGL_\w+|LIBVA_\w+|VDPAU_\w+|DISPLAY|WAYLAND_DISPLAY|XAUTHORITY|XDG_\w+"
    r"|SSL_CERT_\w+|MALLOC_\w+|COVERAGE_\w+"
)
"""Names of the variables that a worker gets."""

LINES, LINE_CHARACTERS = 20, 300
LARGEST_MESSAGE_BYTES = 1 << 16
ARGUS = "nvarguscamerasrc"
_left_behind: list[subprocess.Popen[bytes]] = []  # so that they are collected once they end after all


def is_gentle(uri: CameraUri) -> bool:
    """Whether the camera's process is a client of NVIDIA's Argus daemon, which a killed client leaves stuck."""
    return uri.scheme == "csi" or (uri.scheme == "gst" and ARGUS in uri.address)


class WorkerLink:
    """One running worker. All methods return at once.

    charge: what the worker is told first.
    """

    def __init__(self, charge: Charge, now_ns: int) -> None:
        self.started_ns, self.ready, self.ended = now_ns, False, False
        self.lines: deque[str] = deque(maxlen=LINES)
        self._scrubbed = charge.uri.scrubbed
        self._rest, self._prints = b"", True
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._stderr, stderr_in = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)  # a library's chatter must not block it
        try:
            self._control.setblocking(False)
            self.process = subprocess.Popen(
                [sys.executable, "-c", START, charge.settings.name, str(theirs.fileno()), chr(0x1F).join(sys.path)],
                stdin=subprocess.DEVNULL,
                stdout=stderr_in,
                stderr=stderr_in,
                pass_fds=(theirs.fileno(), *charge.channel, charge.gauges),
                env=worker_environment(os.environ),
                start_new_session=True,  # a Ctrl-C in the terminal is ours; we end the worker in order
            )
            # The imports take a fifth of a second of a core. As a batch task they do not preempt the threads that
            # handle other cameras' frames, which matters where a process is replaced again and again.
            if os.sched_getscheduler(0) == os.SCHED_OTHER:
                with contextlib.suppress(OSError):
                    os.sched_setscheduler(self.process.pid, os.SCHED_BATCH, os.sched_param(0))
            self._control.send(pickle.dumps(charge))
        except OSError:
            self.close()
            raise
        finally:
            theirs.close()
            os.close(stderr_in)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What becomes readable when the worker says or prints something, or ends."""
        return (*(() if self.ended else (self._control.fileno(),)), *((self._stderr,) if self._prints else ()))

    def send(self, order: str, **more: object) -> None:
        """An order of runtime/camera_worker.py. One that cannot be taken in is lost: such a worker will be ended."""
        with contextlib.suppress(OSError):
            self._control.send(json.dumps({"do": order, **more}).encode())

    def send_ring(self, ring: Ring, free: list[int]) -> None:
        """The order to write to this ring, of which the slots `free` are the worker's."""
        order = {"do": "ring", "number": ring.number, "slot_bytes": ring.slot_bytes, "slots": ring.slots, "free": free}
        with contextlib.suppress(OSError):
            socket.send_fds(self._control, [json.dumps(order).encode()], [ring.descriptor])

    def messages(self) -> list[dict[str, object]]:
        """What the worker has said since the last call; ValueError where it is not in order."""
        self._read_lines()
        found: list[dict[str, object]] = []
        while not self.ended:
            try:
                data = self._control.recv(LARGEST_MESSAGE_BYTES)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self.ended = True
                break
            message = json.loads(data)
            if not isinstance(message, dict):
                raise ValueError(f"a message is a {type(message).__name__}")
            found.append(message)
        return found

    def died(self) -> bool:
        """Whether the process has ended; it is collected then."""
        return self.process.poll() is not None

    def how_it_died(self) -> str:
        """In words, with the last line that it printed."""
        self._read_lines()
        code = self.process.returncode
        how = f"exit status {code}"
        if code < 0:
            known = {number.value: number.name for number in signal.Signals}
            how = f"signal {-code} ({known.get(-code, 'real-time')})"
            if -code == signal.SIGKILL:
                how += ", by the system where memory ran out, or by somebody"
        last = f": {self.lines[-1]}" if self.lines else ""
        return f"its process died, {how}{last}"

    def terminate(self) -> None:
        """SIGTERM."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL; a stopped process takes only this."""
        self._signal(signal.SIGKILL)

    def leave_behind(self) -> None:
        """Let go of a process that must not be killed."""
        _left_behind.append(self.process)
        self.close()

    def close(self) -> None:
        """Our ends of the connection; a worker that still lives sees that we are gone."""
        self._control.close()
        os.close(self._stderr)
        _left_behind[:] = [process for process in _left_behind if process.poll() is None]

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    def _read_lines(self) -> None:
        try:
            data = os.read(self._stderr, LARGEST_MESSAGE_BYTES)
        except BlockingIOError:
            return
        self._prints = bool(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-LINE_CHARACTERS:]
        for line in lines:
            text = self._scrubbed(line.decode(errors="replace")).strip()
            if text:
                self.lines.append(text[:LINE_CHARACTERS])


def worker_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What a worker gets of the variables: those by which programs and libraries are found and set, and no other.

    Secrets of other cameras and of the page stay out; the worker's own come with its address.
    """
    names = [name for name in environment if KEPT.fullmatch(name) and name not in names_expanded]
    kept = {name: environment[name] for name in names}
    return {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"} | kept


def sendable(uri: CameraUri) -> CameraUri:
    """The address as it can be pickled; the memory of a test camera is in the gauges."""
    return replace(uri, memory=None)
