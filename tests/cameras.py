"""Live test cameras whose events and pictures are kept."""

from __future__ import annotations

import select
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from runtime import frame_code
from runtime.camera import Camera
from runtime.camera_settings import CameraSettings
from runtime.camera_state import CameraState
from runtime.camera_status import CameraEvent, Clock

PATIENCE_S = 30.0
"""For what must come about at some time; a machine under load starts a process slowly."""


class Watched:
    """A camera that plays a script at 96x128, 20 pictures a second, and what it did.

    events: in order. arrivals_ns: of each picture taken, when it was captured; codes: the number drawn into it.
    """

    def __init__(self, script: str, name: str = "front", clock: Clock | None = None, **settings: Any) -> None:
        self.events: list[CameraEvent] = []
        self.arrivals_ns: list[int] = []
        self.codes: list[int | None] = []
        uri = settings.pop("uri", f"test://pattern?size=96x128&fps=20&script={script}")
        self.camera = Camera(CameraSettings(name, uri, **settings), self.events.append, clock, seed=0)

    def __enter__(self) -> Watched:
        self.camera.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.camera.stop()

    @property
    def states(self) -> list[str]:
        """The states that it took, by name; stalls of a machine under load are among them."""
        return [event.state.name for event in self.events if event.kind == "state"]

    def entered(self, state: CameraState, cause: str | None = None) -> list[CameraEvent]:
        """The events of entering a state."""
        return [
            event for event in self.events
            if event.kind == "state" and event.state is state and cause in (None, event.cause)
        ]  # fmt: skip

    def take(self) -> bool:
        """Takes the waiting picture and gives it back at once; whether there was one."""
        frame = self.camera.take()
        if frame is None:
            return False
        self.arrivals_ns.append(frame.captured_ns)
        self.codes.append(frame_code.decode(frame.bgr()))
        self.camera.release(frame)
        return True

    def is_at_step(self, step: int) -> bool:
        """Whether its script has come to the step of this number, from 0, and that has taken place."""
        script = self.camera._memory.gauges.script
        return bool(script[0] == step and script[2])

    @property
    def is_deaf(self) -> bool:
        """Whether its process lets SIGTERM wait, as after `deaf`."""
        pid = self.camera.status().pid
        return pid is not None and blocks_sigterm(pid)

    def until(self, condition: Callable[[], object], deadline_s: float = PATIENCE_S) -> None:
        """Takes pictures until the condition holds."""
        take_until([self], condition, deadline_s)


def take_until(watched: Sequence[Watched], condition: Callable[[], object], deadline_s: float = PATIENCE_S) -> None:
    """Takes the pictures of several cameras until the condition holds."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, [(each.camera.name, each.states, each.camera.status()) for each in watched]
        readable, _, _ = select.select([each.camera for each in watched], [], [], 0.02)
        for each in watched:
            if each.camera in readable:
                each.take()


def alive(pid: int) -> bool:
    """Whether a process runs; neither gone nor a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def blocks_sigterm(pid: int | None) -> bool:
    """Whether SIGTERM waits, by what the kernel says of the process's main thread."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    blocked = next(line.split()[1] for line in lines if line.startswith("SigBlk:"))
    return bool(int(blocked, 16) >> (signal.SIGTERM - 1) & 1)


def wait_for(condition: Callable[[], object], deadline_s: float = PATIENCE_S) -> None:
    """Returns when the condition holds."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
