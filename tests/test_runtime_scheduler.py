"""Which pictures are taken next: newest first, in turns, none too old, and sets of equal time."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from runtime.camera_state import CameraState
from runtime.scheduler import Scheduler, Taken, born_ns, trusted
from tests.live_doubles import Clock, FakeCamera

SYNC_MS = 20.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cameras(clock: Clock) -> Iterator[list[FakeCamera]]:
    made = [FakeCamera(name, 100, clock) for name in "abc"]
    yield made
    for camera in made:
        camera.close()


def names(found: list[Taken]) -> list[str]:
    return [taken.camera.name for taken in found]


def give_back(found: list[Taken]) -> None:
    for taken in found:
        taken.camera.release(taken.frame)


def test_the_newest_picture_is_taken_once(cameras: list[FakeCamera], clock: Clock) -> None:
    scheduler = Scheduler(cameras, 1, clock_ns=clock)
    assert scheduler.next() == []
    cameras[1].put()
    newest = cameras[1].put()
    clock.pass_ms(7)
    [taken] = scheduler.next()
    assert taken.frame is newest and taken.camera is cameras[1] and taken.taken_ns == clock.now_ns
    assert scheduler.next() == []


def test_cameras_take_turns_whatever_their_rates(cameras: list[FakeCamera], clock: Clock) -> None:
    """All three always have a picture, so each gets every third turn; b, which is slow, is first when it has one."""
    scheduler = Scheduler(cameras, 1, clock_ns=clock)
    order = []
    for turn in range(12):
        for camera in cameras:
            if camera.name != "b" or turn == 7:
                camera.put()
        found = scheduler.next()
        order += names(found)
        give_back(found)
        clock.pass_ms(1)
    assert order[7] == "b"
    assert order.count("a") >= 5 and order.count("c") >= 5
    for camera in cameras:
        camera.put()
    following = [names(scheduler.next())[0] for _ in range(3)]
    assert sorted(following) == ["a", "b", "c"]


def test_a_batch_is_filled_and_not_waited_for(cameras: list[FakeCamera], clock: Clock) -> None:
    scheduler = Scheduler(cameras, 2, clock_ns=clock)
    cameras[2].put()
    assert names(scheduler.next()) == ["c"]
    for camera in cameras:
        camera.put()
    assert names(scheduler.next()) == ["a", "b"]
    cameras[0].put()
    assert names(scheduler.next()) == ["c", "a"]


def test_an_old_picture_is_given_back_and_counted(cameras: list[FakeCamera], clock: Clock) -> None:
    told: list[tuple[str, str]] = []
    scheduler = Scheduler(cameras, 1, None, lambda camera, cause: told.append((camera.name, cause)), clock)
    cameras[0].put(captured_ns=clock.now_ns - 101_000_000)
    cameras[1].put(captured_ns=clock.now_ns - 99_000_000)
    assert names(scheduler.next()) == ["b"]
    assert told == [("a", "stale")] and scheduler.drops == {("a", "stale"): 1} and cameras[0].released == [0]


def test_the_sensors_time_counts_where_it_is_known(cameras: list[FakeCamera], clock: Clock) -> None:
    frame = cameras[0].put()
    assert born_ns(frame) == frame.captured_ns
    late = cameras[0].put(sensor_ago_ms=101)
    assert born_ns(late) == clock.now_ns - 101_000_000
    assert Scheduler(cameras, 1, clock_ns=clock).next() == [] and cameras[0].released == [1]


@pytest.mark.parametrize("state", list(CameraState))
def test_only_pictures_of_a_camera_that_runs_or_recovers_are_used(state: CameraState, clock: Clock) -> None:
    camera = FakeCamera("a", clock_ns=clock)
    camera.since_ns = clock.now_ns
    before = camera.put(captured_ns=clock.now_ns - 1)
    after = camera.put(captured_ns=clock.now_ns + 1)
    camera.state = state
    recovers = state in (CameraState.RUNNING, CameraState.CONNECTING, CameraState.STALLED)
    assert trusted(camera, after) == recovers
    assert trusted(camera, before) == (state is CameraState.RUNNING)
    assert bool(Scheduler([camera], 1, clock_ns=clock).next()) == recovers
    assert camera.released == ([] if recovers else [1])
    camera.close()


def test_a_set_holds_pictures_of_equal_time(cameras: list[FakeCamera], clock: Clock) -> None:
    scheduler = Scheduler(cameras, 1, SYNC_MS, clock_ns=clock)
    for camera in cameras:
        assert scheduler.next() == []
        camera.put()
        clock.pass_ms(SYNC_MS / 2 - 1)
    found = scheduler.next()
    assert names(found) == ["a", "b", "c"] and {taken.taken_ns for taken in found} == {clock.now_ns}
    assert not scheduler.drops


def test_a_missing_camera_is_waited_for_no_longer_than_the_limit(cameras: list[FakeCamera], clock: Clock) -> None:
    scheduler = Scheduler(cameras, 1, SYNC_MS, clock_ns=clock)
    cameras[0].put()
    cameras[2].put()
    assert scheduler.next() == []
    clock.pass_ms(SYNC_MS - 1)
    assert scheduler.next() == []
    clock.pass_ms(1)
    assert names(scheduler.next()) == ["a", "c"]
    assert scheduler.drops == {("b", "missing"): 1}


def test_a_camera_that_does_not_run_is_not_waited_for(cameras: list[FakeCamera], clock: Clock) -> None:
    scheduler = Scheduler(cameras, 1, SYNC_MS, clock_ns=clock)
    cameras[1].state = CameraState.BACKOFF
    cameras[0].put()
    cameras[2].put()
    assert names(scheduler.next()) == ["a", "c"]
    assert not scheduler.drops


def test_newer_pictures_take_the_place_of_older_ones_in_a_set(cameras: list[FakeCamera], clock: Clock) -> None:
    """a is fast: its first picture is superseded; b's is too far from the newest when c's arrives at last."""
    scheduler = Scheduler(cameras, 1, SYNC_MS, clock_ns=clock)
    cameras[0].put()
    cameras[1].put()
    assert scheduler.next() == []
    clock.pass_ms(15)
    cameras[0].put()
    assert scheduler.next() == []
    clock.pass_ms(15)
    cameras[2].put()
    found = scheduler.next()
    assert [(taken.camera.name, taken.frame.sequence) for taken in found] == [("a", 1), ("c", 0)]
    assert scheduler.drops == {("a", "superseded"): 1, ("b", "unsynchronised"): 1, ("b", "missing"): 1}
    give_back(found)
    assert all(camera.lent == [] for camera in cameras)


def test_a_held_picture_that_grows_old_is_dropped(clock: Clock) -> None:
    cameras = [FakeCamera("a", 10, clock), FakeCamera("b", 10, clock)]
    scheduler = Scheduler(cameras, 1, SYNC_MS, clock_ns=clock)
    cameras[0].put()
    assert scheduler.next() == []
    clock.pass_ms(11)
    assert scheduler.next() == [] and scheduler.drops == {("a", "stale"): 1} and cameras[0].released == [0]
    cameras[0].put()
    assert scheduler.next() == []
    scheduler.close()
    assert cameras[0].released == [0, 1]
    for camera in cameras:
        camera.close()


def test_waiting_ends_with_a_picture_or_the_time(cameras: list[FakeCamera]) -> None:
    scheduler = Scheduler(cameras, 1)
    started_s = time.monotonic()
    scheduler.wait(0.05)
    assert time.monotonic() - started_s >= 0.045
    cameras[1].put()
    started_s = time.monotonic()
    scheduler.wait(30)
    assert time.monotonic() - started_s < 15


def test_waiting_without_cameras_left_does_not_spin(cameras: list[FakeCamera]) -> None:
    for camera in cameras:
        camera.state = CameraState.STOPPED
    started_s = time.monotonic()
    for _ in range(20):
        Scheduler(cameras, 1).wait(0.05)
    assert time.monotonic() - started_s >= 0.02
