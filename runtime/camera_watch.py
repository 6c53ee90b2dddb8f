"""The thread behind a camera: starts its process, takes in what that says, decides, and ends it where it must.

It never waits for the process: it looks at it every 50 ms, and at once when it says something or ends.
"""

from __future__ import annotations

import logging
import os
import random
import select
import threading
from collections.abc import Callable

from pspnet.errors import PspnetError
from runtime.camera_link import WorkerLink, is_gentle, sendable
from runtime.camera_memory import CameraMemory
from runtime.camera_pace import WallMap, restart_ns, stall_ns
from runtime.camera_settings import CameraSettings
from runtime.camera_state import FINAL, SECOND_NS, CameraMachine, Ending, Sample
from runtime.camera_status import CameraEvent, Clock
from runtime.camera_uri import CameraUri
from runtime.camera_worker import Charge

TICK_MS, HURRIED_TICK_MS = 50, 10
OPEN_GRACE_S = 1.0  # for a capture that keeps its deadline by itself
WAITS_S = (0.7, 0.5, 1.0)  # as in `Ending`
GENTLE_WAITS_S = (2.0, 2.0, 0.0)
STOP_SHARES = (0.4, 0.25, 0.2)  # the same, of a stop's deadline
START_LIMIT_NS = 30 * SECOND_NS
REPORT_NS = SECOND_NS
READING_NS = 1_000_000
ADVICE = "sudo systemctl restart nvargus-daemon"

_log = logging.getLogger(__name__)


class CameraWatch(threading.Thread):
    """See above. The attributes without underscore may be read from any thread."""

    def __init__(
        self,
        settings: CameraSettings,
        uri: CameraUri,
        memory: CameraMemory,
        clock: Clock,
        on_event: Callable[[CameraEvent], None] | None,
        seed: int | None,
    ) -> None:
        super().__init__(name=f"camera-{settings.name}", daemon=True)
        self._settings, self._uri, self._memory, self._clock = settings, uri, memory, clock
        self._on_event, self._gentle = on_event, is_gentle(uri)
        now_ns = clock.monotonic_ns()
        open_limit_ns = int((settings.open_deadline_s + OPEN_GRACE_S) * SECOND_NS)
        self.machine = CameraMachine(now_ns, open_limit_ns, random.Random(seed), self._state_changed)
        self.wall = WallMap(now_ns, clock.wall_ns())
        self.clock_steps, self.decoder = 0, ""
        self.lines: tuple[str, ...] = ()
        self.link: WorkerLink | None = None
        self._ending: Ending | None = None
        self._leaving = self._signalled = False
        self._start_ns, self._report_ns = now_ns, now_ns
        self._reported: dict[str, int] = {}
        self._size = (0, 0)
        self._stop_s: float | None = None
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def request_stop(self, deadline_s: float) -> None:
        """End the process within the deadline, and then this thread."""
        if self._stop_s is None:
            self._stop_s = deadline_s
            os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """After the thread: give back its descriptor."""
        os.close(self._wake)

    def run(self) -> None:
        """The thread's life. A mistake of ours must not pass for a camera at rest."""
        try:
            while self.link is not None or not (self.machine.now.state in FINAL or self._stop_s is not None):
                self._step(self._clock.monotonic_ns())
                self._await_something()
        except Exception as error:
            _log.exception("camera %s", self._settings.name)
            self.machine.fail(self._clock.monotonic_ns(), "crashed", f"{type(error).__name__}: {error}")
            if self.link is not None and not self._gentle:
                self.link.kill()
        self.machine.stop(self._clock.monotonic_ns())

    def _await_something(self) -> None:
        poll = select.poll()
        if self._stop_s is None:  # what woke us once stays readable
            poll.register(self._wake, select.POLLIN)
        hurried = self._ending is not None
        if self.link is not None:
            hurried |= self.link.ended
            for descriptor in self.link.descriptors:
                poll.register(descriptor, select.POLLIN)
        poll.poll(HURRIED_TICK_MS if hurried else TICK_MS)

    def _step(self, now_ns: int) -> None:
        self._watch_clock()
        if now_ns - self._report_ns >= REPORT_NS:
            self._report(now_ns)
        if self.link is None:
            if self._stop_s is None and now_ns >= self._start_ns:
                self._start_worker(now_ns)
            return
        try:
            for message in self.link.messages():
                self._heed(message, now_ns)
        except (ValueError, KeyError, TypeError) as error:
            self.machine.crashed(now_ns, f"its process said something without sense: {error}")
            self._give_up(now_ns)
        if self.link.died():
            self._bury(self.link, now_ns)
        elif self._stop_s is not None or self.machine.now.state in FINAL:
            self._send_away(now_ns)
        elif self._ending is None:
            self._direct(self.link, now_ns)
        if self.link is not None and self._ending is not None:
            self._hasten(self.link, self._ending.due(now_ns), now_ns)

    def _start_worker(self, now_ns: int) -> None:
        settings, uri, memory = self._settings, sendable(self._uri), self._memory
        charge = Charge(settings, uri, memory.descriptors, memory.gauges.descriptor, os.getpid(), self._gentle)
        self._ending, self._leaving, self._signalled = None, False, False
        try:
            self.link = WorkerLink(charge, now_ns)
        except OSError as error:
            self.machine.crashed(now_ns, f"its process cannot be started: {error.strerror}")
            self._start_ns = self.machine.retry_ns

    def _direct(self, link: WorkerLink, now_ns: int) -> None:
        """A worker that is at our service gets its next order."""
        machine, settings, gauges = self.machine, self._settings, self._memory.gauges
        if not link.ready:
            if now_ns - link.started_ns > START_LIMIT_NS:
                machine.crashed(now_ns, f"its process did not start within {START_LIMIT_NS // SECOND_NS} s")
                self._give_up(now_ns)
        elif machine.wants_open:
            if now_ns >= machine.retry_ns:
                link.send("open")
                machine.asked(now_ns)
        else:
            period_ns = gauges["period_ns"]
            patience_ns = restart_ns(period_ns, settings.restart_after_s, settings.open_deadline_s)
            sample = Sample(
                gauges["last_frame_ns"], stall_ns(period_ns), patience_ns, bool(gauges["frozen"]),
                bool(gauges["repeated"]),
            )  # fmt: skip
            reason = machine.observe(now_ns, sample)
            if reason:
                machine.lost(now_ns, "frozen" if sample.repeated else "timeout", reason)
                self._give_up(now_ns)

    def _heed(self, message: dict[str, object], now_ns: int) -> None:
        link, what = self.link, message["say"]
        assert link is not None
        if what == "ready":
            link.ready = True
            handover = self._memory.handover()
            if handover is not None:
                link.send_ring(*handover)
        elif what == "opened":
            self.decoder = str(message["decoder"])
        elif what == "lost" and self._ending is None:
            self._take_loss(str(message["cause"]), str(message["message"]), now_ns)
        elif what == "closed" and not self._leaving:
            self._ending = None
        elif what == "need":
            try:
                ring = self._memory.reserve(int(str(message["bytes"])))
            except PspnetError as error:
                link.send("no_ring", message=str(error))
                return
            link.send_ring(ring, list(range(ring.slots)))
        elif what == "uses" and self._memory.retire(int(str(message["ring"]))):
            self._emit("memory", now_ns, bytes=sum(buffer.size for buffer in self._memory.buffers()))

    def _take_loss(self, cause: str, message: str, now_ns: int) -> None:
        if cause == "ended" and self._uri.scheme == "clip":
            self.machine.stop(now_ns, cause, message)
            return
        self.machine.lost(now_ns, cause, message)
        self._ending = self._patience(now_ns)

    def _give_up(self, now_ns: int) -> None:
        """The worker is to close its capture, or else it is ended."""
        assert self.link is not None
        self.link.send("close")
        self._ending = self._patience(now_ns)

    def _patience(self, now_ns: int) -> Ending:
        return Ending(now_ns, GENTLE_WAITS_S if self._gentle else WAITS_S, self._gentle)

    def _send_away(self, now_ns: int) -> None:
        """The worker is to leave, or else it is ended."""
        assert self.link is not None
        if not self._leaving:
            self._leaving = True
            self.link.send("leave")
            deadline_s = 2.0 if self._stop_s is None else self._stop_s
            close_s, terminate_s, kill_s = (share * deadline_s for share in STOP_SHARES)
            self._ending = Ending(now_ns, (close_s, terminate_s, kill_s), self._gentle)

    def _hasten(self, link: WorkerLink, step: str, now_ns: int) -> None:
        if step:
            self._signalled = True
        if step == "terminate":
            link.terminate()
        elif step == "kill":
            link.kill()
        elif step == "abandon":
            why = f"and must not be killed; when it is gone: {ADVICE}"
            if not self._gentle:
                why = "even when it is killed: a driver holds it. Restart the machine"
            self.machine.fail(now_ns, "stuck", f"its process {link.process.pid} does not end {why}")
            link.leave_behind()
            self.link = None

    def _bury(self, link: WorkerLink, now_ns: int) -> None:
        link.messages()
        if not (self._leaving or self._signalled):
            self.machine.crashed(now_ns, link.how_it_died())
        self._start_ns = now_ns if link.ready else self.machine.retry_ns
        self.lines = tuple(link.lines)
        link.close()
        self.link, self._ending = None, None
        self._memory.handover()

    def _watch_clock(self) -> None:
        before_ns, wall_ns, now_ns = self._clock.monotonic_ns(), self._clock.wall_ns(), self._clock.monotonic_ns()
        if now_ns - before_ns > READING_NS:  # we were put aside between the readings
            return
        step_ns = self.wall.observe(now_ns, wall_ns)
        if step_ns:
            self.clock_steps += 1
            self._emit("clock_step", now_ns, step_ms=step_ns / 1e6)

    def _report(self, now_ns: int) -> None:
        """Events of what was counted in the last second."""
        self._report_ns = now_ns
        gauges, totals = self._memory.gauges, self._memory.drops()
        totals["stamps_invalid"] = gauges["stamps_invalid"]
        new = {cause: count - self._reported.get(cause, 0) for cause, count in totals.items()}
        self._reported = totals
        stamps = new.pop("stamps_invalid")
        if any(new.values()):
            self._emit("drops", now_ns, **{cause: count for cause, count in new.items() if count})
        if stamps:
            self._emit("stamps_invalid", now_ns, stamps_invalid=stamps)
        size = gauges["height"], gauges["width"]
        if size != self._size:
            self._size = size
            self._emit("size", now_ns, height=size[0], width=size[1])

    def _state_changed(self) -> None:
        self._emit("state", self.machine.now.since_ns)

    def _emit(self, kind: str, at_ns: int, **values: float) -> None:
        if self._on_event is None:
            return
        now = self.machine.now
        event = CameraEvent(self._settings.name, kind, at_ns, now.state, now.cause, now.message, values)
        try:
            self._on_event(event)
        except Exception:  # a listener's mistake must not end the camera
            _log.exception("camera %s: a listener failed", self._settings.name)
