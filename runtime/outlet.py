"""Outlet: one sink behind a thread and a slot of its own, so that no sink can hold up or hurt anything else.

The publisher never waits: `offer` puts a record into the camera's slot, where it replaces an older one that the sink
had no time for. A sink that raises makes its outlet DEGRADED, which tries again after 0.2 to 5 s; a sink that does not
return is left behind when the outlet stops. What is in a slot or in the sink keeps its memory, and nothing else does.
"""

from __future__ import annotations

import enum
import random
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from runtime.camera_state import Backoff
from runtime.record import Record, stale_reason

STUCK_NS = 2 * 10**9
STOP_DEADLINE_S = 1.0
DROPS = ("slow", "degraded", "failed", "stopped")
"""Why a record did not reach the sink, or not well: a newer one came first; the same while the outlet waited to try
again; the sink raised; the outlet was stopped."""


class OutletState(enum.Enum):
    """How an outlet is.

    DEGRADED: the sink raised. STUCK: it has not returned for 2 s. ENDED: it wants no more. ABANDONED: it did not return
    when it had to stop.
    """

    RUNNING = "running"
    DEGRADED = "degraded"
    STUCK = "stuck"
    ENDED = "ended"
    STOPPED = "stopped"
    ABANDONED = "abandoned"


FINAL = frozenset({OutletState.ENDED, OutletState.STOPPED, OutletState.ABANDONED})


class SinkEnded(Exception):
    """Raised by a sink that wants no more records, such as a window that was closed."""


class LiveSink(Protocol):
    """What an outlet calls, always in its own thread.

    wants: "picture" where it reads `Record.frame`, "confidence" where it reads that. live: whether records show what is
    now, and expire; recordings take them as they were published. idle_s: seconds without a record after which `idle` is
    called, and again; None for never.
    """

    @property
    def wants(self) -> frozenset[str]: ...

    @property
    def live(self) -> bool: ...

    @property
    def idle_s(self) -> float | None: ...

    def __call__(self, record: Record) -> None: ...

    def idle(self) -> None:
        """No record came for `idle_s`."""
        ...

    def close(self) -> None:
        """Flush and give everything back; called once, after the last record."""
        ...


class Sink:
    """A LiveSink that wants nothing in particular and does nothing."""

    wants: frozenset[str] = frozenset()
    live: bool = True
    idle_s: float | None = None

    def __call__(self, record: Record) -> None:
        """Nothing happens."""

    def idle(self) -> None:
        """Nothing happens."""

    def close(self) -> None:
        """Nothing happens."""


@dataclass(frozen=True)
class OutletStatus:
    """An outlet at one moment. since_ns: when its state began, monotonic clock. message: why it is not running.

    delivered: records that the sink took. drops: by cause, keys of DROPS. errors: exceptions so far. waiting: records
    in slots. busy_ms: how long the sink has been at work on a record; None where it is not.
    """

    name: str
    state: OutletState
    since_ns: int
    message: str
    delivered: int
    drops: Mapping[str, int]
    errors: int
    waiting: int
    busy_ms: float | None


class Outlet:
    """One sink in a thread, with one slot per camera in which the newest record wins. name: in status and messages."""

    def __init__(self, sink: LiveSink, name: str, seed: int | None = None) -> None:
        self.sink, self.name = sink, name
        self._slots: dict[str, Record] = {}
        self._changed = threading.Condition()
        self._drops: Counter[str] = Counter()
        self._state, self._since_ns, self._message = OutletState.RUNNING, time.monotonic_ns(), ""
        self._delivered = self._errors = 0
        self._busy_since_ns: int | None = None
        self._stopping = False
        self._retry_ns: int | None = None
        self._backoff = Backoff(random.Random(seed))
        self._thread = threading.Thread(target=self._run, name=f"outlet {name}", daemon=True)

    @property
    def wants(self) -> frozenset[str]:
        """What the sink reads beside labels and figures."""
        return self.sink.wants

    def start(self) -> None:
        """Begin to deliver."""
        self._thread.start()

    def offer(self, record: Record) -> None:
        """Take a record for the sink, in place of an older one of the same camera; never waits for the sink."""
        with self._changed:
            if self._stopping or self._state in FINAL:
                self._drops["stopped"] += 1
                return
            if self._slots.pop(record.camera, None) is not None:
                self._drops["slow" if self._retry_ns is None else "degraded"] += 1
            self._slots[record.camera] = record  # as the last: cameras take turns
            self._changed.notify()

    def status(self) -> OutletStatus:
        """How the outlet is."""
        with self._changed:
            now_ns, busy_since_ns = time.monotonic_ns(), self._busy_since_ns
            busy_ns = None if busy_since_ns is None else now_ns - busy_since_ns
            state, since_ns, message = self._state, self._since_ns, self._message
            if busy_ns is not None and busy_ns > STUCK_NS and state not in FINAL:
                state, since_ns = OutletState.STUCK, now_ns - busy_ns
                message = f"its sink has not returned for {busy_ns / 1e9:.0f} s"
            return OutletStatus(
                self.name, state, since_ns, message, self._delivered, dict(self._drops), self._errors,
                len(self._slots), None if busy_ns is None else busy_ns / 1e6,
            )  # fmt: skip

    def request_stop(self) -> None:
        """Begin to stop: what is in the slots is still delivered, then the sink is closed."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def stop(self, deadline_s: float = STOP_DEADLINE_S) -> OutletStatus:
        """Deliver what is in the slots and close the sink; leave it behind where the deadline passes."""
        self.request_stop()
        if self._thread.ident is None:  # it was never started, and still has a sink to close
            self.start()
        self._thread.join(deadline_s)
        with self._changed:
            if self._thread.is_alive():
                message = f"its sink did not return within {deadline_s:g} s and was left behind"
                self._set(OutletState.ABANDONED, message)
                self._drop_slots()
        return self.status()

    def _run(self) -> None:
        while (record := self._next()) is not None:
            self._deliver(record)
            del record  # the next wait may be long, and must not keep its memory
        self._call(self.sink.close)
        with self._changed:
            self._drop_slots()
            if self._state not in FINAL:
                self._set(OutletState.STOPPED, self._message)

    def _next(self) -> Record | None:
        """The record that has waited longest, as soon as it may be delivered; None where the outlet is to end."""
        while True:
            with self._changed:
                if self._state in FINAL:
                    return None
                if self._retry_ns is not None:
                    if self._stopping:
                        return None
                    if (wait_ns := self._retry_ns - time.monotonic_ns()) > 0:
                        self._changed.wait(wait_ns / 1e9)
                        continue
                if self._slots:
                    self._busy_since_ns = time.monotonic_ns()
                    return self._slots.pop(next(iter(self._slots)))
                if self._stopping:
                    return None
                if self._changed.wait(self.sink.idle_s) or self._retry_ns is not None:
                    continue
            self._call(self.sink.idle)

    def _deliver(self, record: Record) -> None:
        now_ns = time.monotonic_ns()
        if self.sink.live and record.expired(now_ns):
            record = record.invalidated(stale_reason(record, now_ns), now_ns)
        if self._call(self.sink, record):
            with self._changed:
                self._delivered += 1
        else:
            with self._changed:
                self._drops["failed"] += 1

    def _call(self, function, *arguments: Record) -> bool:  # type: ignore[no-untyped-def]
        """Whether the sink did what it was asked for."""
        with self._changed:
            self._busy_since_ns = time.monotonic_ns()
        message, ended = "", False
        try:
            function(*arguments)
        except SinkEnded as error:
            message, ended = str(error), True
        except BaseException as error:  # SystemExit of a user's callback too: this thread must go on
            message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        with self._changed:
            self._busy_since_ns = None
            if self._state in FINAL:
                pass
            elif ended:
                self._set(OutletState.ENDED, message)
                self._drop_slots()
            elif message:
                self._errors += 1
                self._retry_ns = time.monotonic_ns() + self._backoff.delay_ns("")
                self._set(OutletState.DEGRADED, message)
            elif self._state is OutletState.DEGRADED and arguments:
                self._retry_ns = None
                self._backoff.reset()
                self._set(OutletState.RUNNING, "")
        return not message and not ended

    def _set(self, state: OutletState, message: str) -> None:
        if state is not self._state:
            self._state, self._since_ns = state, time.monotonic_ns()
        self._message = message

    def _drop_slots(self) -> None:
        if self._slots:
            self._drops["stopped"] += len(self._slots)
            self._slots.clear()


def stop_outlets(outlets: Sequence[Outlet], deadline_s: float = STOP_DEADLINE_S) -> list[OutletStatus]:
    """Stop all outlets at the same time; the status of each afterwards."""
    end = time.monotonic() + deadline_s
    for outlet in outlets:
        outlet.request_stop()
    return [outlet.stop(max(end - time.monotonic(), 0.0)) for outlet in outlets]
