"""Board: what is newest, whether it may be believed, and what keeps a run from being ready."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator

import pytest

from runtime.board import EVENTS, Board
from runtime.camera_state import CameraState
from runtime.camera_status import CameraEvent
from tests.served_run import ENGINE, record, status


class Clock:
    """The monotonic clock, moved ahead by a test."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> int:
        return time.monotonic_ns() + int(self.ahead_s * 1e9)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def board(clock: Clock) -> Iterator[Board]:
    yield Board({"front": 250.0, "rear": 2000.0}, clock)


def test_a_camera_without_any_picture_is_stale(board: Board) -> None:
    assert board.record("front") is None and board.status("front") is None
    assert board.freshness("front").reason == "the engine is loading" and board.freshness("front").age_ms is None
    board.set_engine(ENGINE)
    assert board.freshness("front").reason == "no picture yet"
    board.set_status(status("front"))
    assert board.freshness("front").reason == "no picture yet"


def test_the_newest_record_takes_the_place_of_the_one_before(board: Board) -> None:
    board.publish(record("front", 1))
    newest = record("front", 2)
    board.publish(newest)
    assert board.record("front") is newest and board.record("rear") is None


def test_a_result_turns_stale_by_itself_when_nothing_follows(board: Board, clock: Clock) -> None:
    board.publish(record("front", age_ms=20.0))
    board.publish(record("rear", age_ms=20.0))
    fresh = board.freshness("front")
    assert not fresh.stale and fresh.age_ms is not None and fresh.age_ms >= 20.0
    clock.ahead_s = 0.24  # with the 20 ms, just above the front's max_age_ms
    assert board.freshness("front").reason == "no result for too long" and not board.freshness("rear").stale
    clock.ahead_s = 2.1
    assert board.freshness("rear").stale


def test_age_counts_from_the_sensor_where_it_is_known(board: Board) -> None:
    given = record("rear", age_ms=20.0)
    assert given.captured_ns is not None
    board.publish(dataclasses.replace(given, sensor_ns=given.captured_ns - 1_990_000_000))
    assert board.freshness("rear").stale


def test_readiness_gives_a_slow_camera_three_periods(board: Board, clock: Clock) -> None:
    board.set_engine(ENGINE)
    board.set_status(status("front", fps=0.5))
    board.publish(record("front"))
    clock.ahead_s = 5.0
    assert board.freshness("front").stale and board.unready() == ""
    clock.ahead_s = 6.5
    assert "front (no result for too long)" in board.unready()


@pytest.mark.parametrize("state", [state for state in CameraState if state is not CameraState.RUNNING])
def test_a_camera_that_does_not_run_is_stale_at_once(board: Board, state: CameraState) -> None:
    board.publish(record("front"))
    board.set_status(status("front", state, cause="timeout"))
    before = ", last failure" if state is CameraState.CONNECTING else ""
    assert board.freshness("front").reason == f"camera is {state.value}{before}: timeout"


def test_an_invalid_record_is_stale_and_keeps_the_age_of_the_last_valid_one(board: Board, clock: Clock) -> None:
    valid = record("front", age_ms=50.0)
    board.publish(valid)
    board.publish(valid.invalidated("the picture is 300 ms old", time.monotonic_ns()))
    fresh = board.freshness("front")
    assert fresh.reason == "the picture is 300 ms old"
    assert fresh.age_ms is not None and fresh.age_ms >= 50.0


def test_a_run_is_ready_with_an_engine_and_one_fresh_camera(board: Board) -> None:
    assert board.unready() == "the engine is loading"
    board.set_engine(ENGINE)
    assert board.unready() == "no camera is fresh: front (no picture yet), rear (no picture yet)"
    board.publish(record("front"))
    assert board.unready() == ""
    board.set_trouble("the engine hangs")
    assert board.unready() == "the engine hangs"


def test_one_late_result_does_not_make_a_run_unready_and_many_do(board: Board, clock: Clock) -> None:
    board.set_engine(ENGINE)
    board.publish(record("front"))
    board.publish(record("front").invalidated("the picture is 300 ms old", time.monotonic_ns()))
    assert board.freshness("front").stale and board.unready() == ""
    clock.ahead_s = 1.5
    assert "front (the picture is 300 ms old)" in board.unready()
    board.publish(record("rear"))
    board.set_status(status("rear", CameraState.STALLED))
    assert "rear (camera is stalled)" in board.unready()


def test_the_last_200_events_are_kept_and_numbered(board: Board) -> None:
    for value in range(EVENTS + 50):
        board.add_event(CameraEvent("front", "size", value, CameraState.RUNNING))
    events = board.events()
    assert [noted.number for noted in events] == list(range(51, EVENTS + 51))
    assert events[-1].event.at_ns == EVENTS + 49


def test_only_unusual_drops_are_events(board: Board) -> None:
    for values in ({"busy": 3.0}, {"busy": 3.0, "corrupt": 1.0}, {"busy": 9.0}):
        board.add_event(CameraEvent("front", "drops", 0, CameraState.RUNNING, values=values))
    assert [noted.event.values for noted in board.events()] == [{"busy": 3.0, "corrupt": 1.0}]


def test_uptime_is_of_the_monotonic_clock(board: Board, clock: Clock) -> None:
    clock.ahead_s = 90.0
    assert 90.0 <= board.uptime_s < 150.0


def test_outlets_and_engine_are_what_was_set_last(board: Board) -> None:
    assert board.engine is None and list(board.outlets) == []
    board.set_outlets([{"name": "video"}, {"name": "page"}])
    board.set_engine(ENGINE)
    assert [outlet["name"] for outlet in board.outlets] == ["video", "page"] and board.engine is ENGINE
