"""What an operator reads on stderr of cameras that come and go, and of results that are of no use."""

from __future__ import annotations

import dataclasses
import random

import pytest

from runtime.camera_state import CameraState
from runtime.camera_status import CameraEvent, CameraStatus
from runtime.record import Record, no_signal
from runtime.telling_board import TellingBoard
from tests.live_doubles import Clock
from tests.live_records import SPEC, record_of

TOO_OLD = "the picture is {} ms old, at most 30 ms are allowed"
FIX = "raise --max-age-ms (max_age_ms in drive.toml), or take a faster engine or a smaller network"
SHORT_S, AGAIN_S, LOOK_S = 10, 60, 0.5  # the contract, and how often a run looks at its cameras


class Told:
    """A board of one camera, time that the test sets, and the lines so far."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys, self.clock, self.told = capsys, Clock(), []
        self.board = TellingBoard({"front": 250.0}, self.clock)
        self.state = CameraState.CONNECTING

    def enter(self, state: CameraState, cause: str = "", message: str = "") -> None:
        self.state = state
        self.board.add_event(CameraEvent("front", "state", self.clock.now_ns, state, cause, message))

    def stall(self, milliseconds: int) -> None:
        self.enter(CameraState.STALLED, "stalled", f"no picture for {milliseconds} ms")

    def pass_s(self, seconds: float, stale: int = 0) -> None:
        """Time in which the run looks at its cameras."""
        for _ in range(round(seconds / LOOK_S)):
            self.clock.pass_ms(LOOK_S * 1000)
            status = CameraStatus(
                "front", "test://pattern", self.state, 0, "", "", 30.0, 0, {"stale": stale}, 0, 0, "none", (2, 2), 0.0,
                0, 0, None, (),
            )  # fmt: skip
            self.board.set_status(status)

    def result(self, age_ms: int | None) -> None:
        """A record that is too old, or, without an age, a valid one."""
        record = record_of()
        invalid = None if age_ms is None else record.invalidated(TOO_OLD.format(age_ms), record.published_ns)
        self.board.publish(invalid or record)

    @property
    def lines(self) -> list[str]:
        self.told += [line.removeprefix("pspnet: ") for line in self._capsys.readouterr().err.splitlines()]
        return self.told


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    return Told(capsys)


def silence(reason: str) -> Record:
    return no_signal("front", SPEC, reason, None)


def test_a_camera_is_said_to_run_again_and_short_outages_are_counted(told: Told) -> None:
    told.enter(CameraState.RUNNING)
    for milliseconds in (329, 315, 301):
        told.pass_s(2)
        told.stall(milliseconds)
        told.pass_s(1)
        told.enter(CameraState.RUNNING)
    expected = ["front is running", "front is stalled: no picture for 329 ms", "front is running again"]
    assert told.lines == expected
    told.pass_s(AGAIN_S)
    told.stall(333)
    told.enter(CameraState.RUNNING)
    expected += [
        "front is stalled: no picture for 333 ms (after 2 short outages not told of)",
        "front is running again",
    ]
    assert told.lines == expected


def test_a_camera_that_flaps_for_long_does_not_flood(told: Told) -> None:
    told.enter(CameraState.RUNNING)
    minutes = 20
    for number in range(minutes * 20):
        told.pass_s(2)
        told.stall(300 + number)
        told.pass_s(1)
        told.enter(CameraState.RUNNING)
    assert minutes <= len(told.lines) <= 2 * minutes + 2 and told.lines[-1] == "front is running again"


def test_an_outage_that_lasts_is_told_of_although_there_were_short_ones(told: Told) -> None:
    told.enter(CameraState.RUNNING)
    told.stall(301)
    told.enter(CameraState.RUNNING)
    told.stall(302)
    told.pass_s(2)
    told.enter(CameraState.BACKOFF, "timeout", "no picture for 2.0 s")
    assert told.lines[-1] == "front is running again"
    told.pass_s(SHORT_S - 2)
    told.pass_s(SHORT_S)
    assert told.lines[3:] == ["front is backoff: no picture for 2.0 s"]
    told.enter(CameraState.BACKOFF, "timeout", "no picture for 2.1 s")
    told.enter(CameraState.BACKOFF, "auth", "user or password are wrong")
    told.enter(CameraState.RUNNING)
    assert told.lines[4:] == ["front is backoff: user or password are wrong", "front is running again"]


def test_a_failure_is_told_of_at_once_and_a_stop_is_none(told: Told) -> None:
    told.enter(CameraState.RUNNING)
    for state in (CameraState.STALLED, CameraState.RUNNING, CameraState.STALLED):
        told.enter(state)
    told.enter(CameraState.FAILED, "crashed", "its process died 5 times")
    assert told.lines[-1] == "front is failed: its process died 5 times"
    before = len(told.lines)
    told.enter(CameraState.STOPPED)
    told.pass_s(2 * SHORT_S)
    assert len(told.lines) == before


@pytest.mark.parametrize("seed", range(20))
def test_the_last_word_is_true_whatever_happened_before(seed: int, told: Told) -> None:
    chance = random.Random(seed)
    away = [
        (CameraState.STALLED, "stalled"), (CameraState.FROZEN, "frozen"), (CameraState.BACKOFF, "timeout"),
        (CameraState.BACKOFF, "refused"), (CameraState.CONNECTING, "refused"),
    ]  # fmt: skip
    for _ in range(60):
        running = chance.random() < 0.5
        state, cause = (CameraState.RUNNING, "") if running else chance.choice(away)
        told.enter(state, cause, f"{cause} {chance.random()}" if cause else "")
        told.pass_s(chance.choice([0.5, 1, 3, 8, 20]))
    told.pass_s(SHORT_S)
    assert ("running" in told.lines[-1]) == (told.state is CameraState.RUNNING)
    assert told.lines.count("front is running") == 1


def test_a_cause_is_kept_when_a_camera_is_stopped_and_gone_when_it_runs(told: Told) -> None:
    told.enter(CameraState.BACKOFF, "auth", "wrong")
    told.enter(CameraState.CONNECTING, "auth", "it is tried again")
    told.enter(CameraState.STOPPED)
    assert told.board.last_failure("front") == ("auth", "wrong")
    told.enter(CameraState.RUNNING)
    told.enter(CameraState.STOPPED)
    assert told.board.last_failure("front") == ("", "")


def test_results_that_are_all_too_old_are_told_of_once_and_when_they_are_valid_again(told: Told) -> None:
    told.enter(CameraState.RUNNING)
    for age_ms in range(40, 140):
        told.result(age_ms)
        told.pass_s(LOOK_S)
    expected = [
        "front is running",
        f"front runs, but had no valid result for 3 s, most often because {TOO_OLD.format(46)}: {FIX}",
    ]
    assert told.lines == expected
    told.result(None)
    assert told.lines[2:] == ["front: its results are valid again"]
    assert told.board.why_invalid("front") == f"{TOO_OLD.format(139)}: {FIX}"


def test_valid_results_in_between_a_network_that_is_tried_and_outages_are_nothing_to_tell(told: Told) -> None:
    told.enter(CameraState.RUNNING)
    for number in range(60):  # nothing came of the network yet
        told.board.publish(silence(f"no result for {number} s"))
        told.pass_s(1)
    assert told.board.why_invalid("front") == ""
    for number in range(60):
        told.result(None if number % 3 == 0 else 40)
        told.pass_s(1)
    assert told.lines == ["front is running"]
    told.stall(302)
    for _ in range(60):
        told.board.publish(silence("the camera is stalled: no picture for 302 ms"))
        told.pass_s(1)
    assert len(told.lines) == 2


def test_pictures_that_are_too_old_before_their_turn_are_told_of(told: Told) -> None:
    told.enter(CameraState.RUNNING)
    for number in range(6):
        told.pass_s(1, stale=number + 1)
        told.board.publish(silence(f"no result for {number + 1}.0 s"))
    why = f"its pictures are too old when their turn comes: {FIX}"
    assert told.lines[1:] == [f"front runs, but had no valid result for 3 s, most often because {why}"]
    assert told.board.why_invalid("front") == why


def test_pictures_that_cannot_be_used_are_not_told_of_twice(told: Told) -> None:
    told.enter(CameraState.RUNNING)
    trouble = CameraEvent("front", "trouble", 0, CameraState.RUNNING, message="camera front: its mask is 2x2")
    told.board.add_event(trouble)
    for _ in range(20):
        told.board.publish(dataclasses.replace(silence(trouble.message), times_ms={"infer": 1.0}))
        told.pass_s(1)
    assert told.lines[1:] == ["front: its pictures cannot be used: its mask is 2x2"]
    assert told.board.why_invalid("front") == trouble.message
