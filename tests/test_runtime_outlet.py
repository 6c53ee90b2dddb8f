"""Outlets: a sink that blocks, raises, ends or never returns hurts nobody but itself, and memory comes back."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import threading
import time
import weakref

import numpy as np
import pytest

from pspnet.errors import PspnetError
from runtime import outlet as outlets
from runtime.array_pool import ArrayPool
from runtime.outlet import Outlet, OutletState, SinkEnded, stop_outlets
from runtime.record import Record
from tests.live_records import PATIENCE_S, Blocking, Failing, Keeping, record_of, until

SLACK_S = 5.0  # of a loaded machine, on top of a deadline


def started(sink: Keeping) -> Outlet:
    outlet = Outlet(sink, "test", seed=0)
    outlet.start()
    return outlet


def test_the_newest_record_wins_and_drops_are_counted() -> None:
    sink = Blocking()
    outlet = started(sink)
    outlet.offer(record_of(0))
    assert sink.entered.wait(PATIENCE_S)
    for sequence in range(1, 11):
        outlet.offer(record_of(sequence))
    status = outlet.status()
    assert (status.waiting, status.drops, status.delivered) == (1, {"slow": 9}, 0)
    sink.go.set()
    assert outlet.stop(PATIENCE_S).state is OutletState.STOPPED
    assert [sequence for _, sequence, _ in sink.seen] == [0, 10]
    assert outlet.status().delivered == 2


def test_every_camera_has_a_slot_and_they_take_turns() -> None:
    sink = Blocking()
    outlet = started(sink)
    outlet.offer(record_of(0, camera="a"))
    assert sink.entered.wait(PATIENCE_S)
    for sequence in (1, 2, 3):
        for camera in ("b", "a", "c"):
            outlet.offer(record_of(sequence, camera=camera))
    sink.go.set()
    outlet.stop(PATIENCE_S)
    assert [(camera, sequence) for camera, sequence, _ in sink.seen] == [("a", 0), ("b", 3), ("a", 3), ("c", 3)]
    assert outlet.status().drops == {"slow": 6}


def test_a_blocked_sink_holds_up_neither_publisher_nor_others() -> None:
    blocked, free = started(Blocking()), started(sink := Keeping())
    begun_s = time.monotonic()
    for sequence in range(500):
        record = record_of(sequence)
        for outlet in (blocked, free):
            outlet.offer(record)
        if sequence % 100 == 0:
            until(lambda last=sequence: bool(sink.seen) and sink.seen[-1][1] == last)
    assert time.monotonic() - begun_s < PATIENCE_S
    assert free.stop(PATIENCE_S).state is OutletState.STOPPED and sink.seen[-1][1] == 499
    assert blocked.status().delivered == 0 and blocked.status().drops["slow"] >= 498
    assert blocked.stop(0.05).state is OutletState.ABANDONED


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError(), SystemExit(3)])
def test_an_exception_degrades_this_outlet_alone_and_is_tried_again(error: BaseException) -> None:
    failing, other = Failing(error), Keeping()
    broken, sound = started(failing), started(other)
    sequences = itertools.count()

    def offer_one() -> None:
        for outlet in (broken, sound):
            outlet.offer(record_of(next(sequences)))

    offer_one()
    until(lambda: broken.status().state is OutletState.DEGRADED)
    assert type(error).__name__ in broken.status().message
    until(lambda: (offer_one(), failing.calls >= 3)[1], "a third try")
    assert broken.status().drops["failed"] >= 2 and broken.status().drops["degraded"] > 0
    assert sound.status().state is OutletState.RUNNING and sound.status().errors == 0 and other.seen
    failing.error = None
    until(lambda: (offer_one(), broken.status().state is OutletState.RUNNING)[1], "recovery")
    assert failing.seen and broken.status().message == ""
    assert broken._backoff._tries == 0  # the next trouble is tried again soon
    stop_outlets([broken, sound], PATIENCE_S)


def test_tries_become_rarer() -> None:
    outlet = started(failing := Failing(PspnetError("the disk is full")))
    times = []
    calls = 0
    for sequence in range(100_000):
        outlet.offer(record_of(sequence))
        if failing.calls > calls:
            calls = failing.calls
            times.append(time.monotonic())
        if calls == 4:
            break
        time.sleep(0.002)
    pauses = np.diff(times)
    # 0.2, 0.4 and 0.8 s, each up to 20 % shorter; a loaded machine makes them longer only
    assert (pauses >= np.array([0.15, 0.31, 0.63])).all()
    outlet.stop(PATIENCE_S)


def test_stop_delivers_what_waits_then_closes_once() -> None:
    sink = Blocking()
    outlet = started(sink)
    outlet.offer(record_of(0))
    assert sink.entered.wait(PATIENCE_S)
    outlet.offer(record_of(1))
    outlet.request_stop()
    outlet.offer(record_of(2))
    sink.go.set()
    status = outlet.stop(PATIENCE_S)
    assert (status.state, status.drops, sink.closed) == (OutletState.STOPPED, {"stopped": 1}, 1)
    assert [sequence for _, sequence, _ in sink.seen] == [0, 1]
    outlet.stop(PATIENCE_S)
    assert sink.closed == 1


def test_a_sink_that_never_returns_is_left_behind() -> None:
    stuck = [started(Blocking()) for _ in range(3)]
    sound = started(Keeping())
    for outlet in (*stuck, sound):
        outlet.offer(record_of(0))
        outlet.offer(record_of(1))
    begun_s = time.monotonic()
    statuses = stop_outlets([*stuck, sound], 0.3)
    assert time.monotonic() - begun_s < 0.3 + SLACK_S
    assert [status.state for status in statuses[:3]] == [OutletState.ABANDONED] * 3
    assert all("left behind" in status.message and status.waiting == 0 for status in statuses[:3])
    assert statuses[3].state is OutletState.STOPPED
    for outlet in stuck:  # one that returns after all is closed, and stays abandoned
        outlet.sink.go.set()  # type: ignore[attr-defined]
        until(lambda sink=outlet.sink: sink.closed == 1)
        assert outlet.status().state is OutletState.ABANDONED


def test_stop_without_start_closes_the_sink() -> None:
    sink = Keeping()
    assert Outlet(sink, "test").stop(PATIENCE_S).state is OutletState.STOPPED
    assert sink.closed == 1


def test_what_goes_wrong_while_closing_is_told() -> None:
    class Bad(Keeping):
        def close(self) -> None:
            raise PspnetError("the video is incomplete")

    outlet = started(Bad())
    status = outlet.stop(PATIENCE_S)
    assert status.state is OutletState.STOPPED and "incomplete" in status.message and status.errors == 1


def test_a_sink_may_end_by_itself() -> None:
    outlet = started(failing := Failing(SinkEnded("the window was closed")))
    outlet.offer(record_of(0))
    until(lambda: failing.closed == 1)
    outlet.offer(record_of(1))
    status = outlet.stop(PATIENCE_S)
    assert (status.state, status.message) == (OutletState.ENDED, "the window was closed")
    assert status.errors == 0 and status.drops["stopped"] == 1


def test_a_stuck_sink_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlets, "STUCK_NS", 50_000_000)
    outlet = started(sink := Blocking())
    outlet.offer(record_of(0))
    until(lambda: outlet.status().state is OutletState.STUCK)
    assert "not returned" in outlet.status().message and (outlet.status().busy_ms or 0) >= 50
    sink.go.set()
    until(lambda: outlet.status().state is OutletState.RUNNING)
    outlet.stop(PATIENCE_S)


def test_what_is_too_old_at_the_hand_over_is_invalid_for_live_sinks() -> None:
    for live in (True, False):
        outlet = started(sink := Keeping(live=live))
        record = record_of(0, age_ms=100, max_age_ms=60_000)
        aged = dataclasses.replace(record_of(1), max_age_ms=50, captured_ns=record.captured_ns)
        assert record.valid and aged.valid  # and taken late
        outlet.offer(record)
        until(lambda sink=sink: len(sink.seen) == 1)
        outlet.offer(aged)
        outlet.stop(PATIENCE_S)
        assert sink.seen == [("front", 0, True), ("front", 1, not live)]


def test_idle_is_called_while_nothing_comes() -> None:
    outlet = started(sink := Keeping(idle_s=0.01))
    until(lambda: sink.idled >= 3)
    outlet.offer(record_of(0))
    until(lambda: bool(sink.seen))
    outlet.stop(PATIENCE_S)
    assert sink.closed == 1


def pooled(pool: ArrayPool, sequence: int) -> Record:
    """A record whose labels lie in the pool."""
    record = record_of(sequence)
    assert record.labels is not None
    return dataclasses.replace(record, labels=pool.copy(record.labels))


def test_memory_of_delivered_overwritten_and_failed_records_comes_back() -> None:
    pool = ArrayPool()
    sound, failing = started(Keeping()), started(Failing(RuntimeError("no")))
    gc.disable()  # it must come back by itself, at once
    try:
        for sequence in range(200):
            record = pooled(pool, sequence)
            sound.offer(record)
            failing.offer(record)
        until(lambda: sound.status().waiting == 0 and sound.status().busy_ms is None)
        assert pool.made <= 6  # the one being made, two in slots, two in sinks, one in this loop
        last = weakref.ref(record)
        del record
        stop_outlets([sound, failing], PATIENCE_S)
        until(lambda: last() is None, "the last record's end")
    finally:
        gc.enable()


def test_an_idle_outlet_keeps_no_record() -> None:
    outlet = started(Keeping())
    record = record_of(0)
    outlet.offer(record)
    reference = weakref.ref(record)
    del record
    until(lambda: reference() is None, "the record's end")
    outlet.stop(PATIENCE_S)


def test_no_thread_is_left() -> None:
    before = set(threading.enumerate())
    stop_outlets([started(Keeping()) for _ in range(5)], PATIENCE_S)
    assert set(threading.enumerate()) <= before
