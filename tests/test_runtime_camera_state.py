"""The state machine of a camera, on a clock of the test's own."""

from __future__ import annotations

import random

import pytest

from pspnet.errors import PspnetError
from runtime.camera_settings import CameraSettings
from runtime.camera_state import Backoff, CameraMachine, CameraState, Ending, Sample
from runtime.capture_errors import CAUSES

S = 10**9
MS = 10**6
STALL_NS, RESTART_NS, OPEN_NS = 300 * MS, 2 * S, 11 * S
START_NS = 1000 * S


class Story:
    """A machine, its clock and the states that it was in."""

    def __init__(self, seed: int = 0) -> None:
        self.now_ns, self.last_ns = START_NS, 0
        self.states: list[str] = []
        self.machine = CameraMachine(self.now_ns, OPEN_NS, random.Random(seed), self._note)

    def _note(self) -> None:
        self.states.append(self.machine.now.state.name)

    def observe(self, frozen: bool = False, repeated: bool = False) -> str:
        return self.machine.observe(self.now_ns, Sample(self.last_ns, STALL_NS, RESTART_NS, frozen, repeated))

    def run(self, seconds: float, frames: bool = True, **seen: bool) -> str:
        """Looks every 50 ms, at pictures every 33 ms or none; returns the first reason to open the camera again."""
        end_ns = self.now_ns + int(seconds * S)
        while self.now_ns < end_ns:
            self.now_ns += 50 * MS
            if frames:
                self.last_ns = self.now_ns - 20 * MS
            reason = self.observe(**seen)
            if reason:
                return reason
        return ""

    def opened(self) -> Story:
        self.machine.asked(self.now_ns)
        self.run(0.2)
        return self


def test_it_runs_from_the_first_picture_on() -> None:
    story = Story()
    story.last_ns = START_NS - 1  # a picture of the connection before this one
    assert story.machine.wants_open
    story.machine.asked(story.now_ns)
    assert not story.machine.wants_open and story.observe() == ""
    assert story.machine.now.state is CameraState.CONNECTING
    story.run(0.1)
    assert story.states == ["RUNNING"]


def test_a_stall_is_seen_at_its_limit_and_ends_with_a_picture() -> None:
    story = Story().opened()
    silent_since_ns = story.last_ns
    story.run(0.6, frames=False)
    now = story.machine.now
    assert (now.state, now.cause) == (CameraState.STALLED, "stalled")
    assert STALL_NS <= now.since_ns - silent_since_ns <= STALL_NS + 50 * MS
    story.run(0.1)
    assert story.states == ["RUNNING", "STALLED", "RUNNING"] and story.machine.reconnects == 0


def test_a_long_stall_asks_for_the_camera_to_be_opened_again() -> None:
    story = Story().opened()
    silent_since_ns = story.last_ns
    assert story.run(5, frames=False) == "no picture for 2.0 s"
    assert RESTART_NS <= story.now_ns - silent_since_ns <= RESTART_NS + 50 * MS


def test_a_lost_camera_is_tried_again_without_end_and_counts_when_it_is_back() -> None:
    story = Story().opened()
    for _ in range(100):
        story.machine.lost(story.now_ns, "refused", "nobody answers")
        assert story.machine.now.state is CameraState.BACKOFF and story.machine.wants_open
        assert 0 < story.machine.retry_ns - story.now_ns <= 5 * S
        story.now_ns = story.machine.retry_ns
        story.machine.asked(story.now_ns)
        # why it was lost is still to be read, but not as if it happened now
        assert story.machine.now[2:] == ("refused", "it is tried again")
    story.run(0.1)
    assert story.states[-1] == "RUNNING" and story.machine.now.cause == "" and story.machine.reconnects == 1


def test_opening_has_a_limit() -> None:
    story = Story()
    story.run(60, frames=False)  # its process is not there yet, so nothing was asked
    story.machine.asked(story.now_ns)
    asked_ns = story.now_ns
    assert story.run(60, frames=False) == "no picture came while it was opened"
    assert OPEN_NS < story.now_ns - asked_ns <= OPEN_NS + 50 * MS


def test_a_frozen_camera_is_flagged_and_opened_again_only_where_its_stamps_stand_still() -> None:
    story = Story().opened()
    assert story.run(60, frozen=True) == ""
    assert story.machine.now.state is CameraState.FROZEN
    story.run(0.1)
    assert story.states == ["RUNNING", "FROZEN", "RUNNING"]
    frozen_ns = story.now_ns
    assert "again and again" in story.run(60, frozen=True, repeated=True)
    assert 3 * S < story.now_ns - frozen_ns <= 3 * S + 150 * MS


def test_a_frozen_camera_that_falls_silent_is_stalled() -> None:
    story = Story().opened()
    story.run(1, frozen=True)
    story.run(1, frames=False, frozen=True)
    assert story.states == ["RUNNING", "FROZEN", "STALLED"]


def test_five_crashes_in_a_minute_are_the_end() -> None:
    story = Story().opened()
    for crash in range(5):
        assert story.machine.now.state is not CameraState.FAILED
        story.now_ns += 14 * S
        story.machine.crashed(story.now_ns, f"signal 11, number {crash}")
    assert story.machine.now.state is CameraState.FAILED
    assert "5 times within a minute; the last time: signal 11, number 4" in story.machine.now.message
    assert not story.machine.wants_open and story.run(5) == "" and story.states[-1] == "FAILED"


def test_rarer_crashes_are_not() -> None:
    story = Story().opened()
    for _ in range(50):
        story.now_ns += 16 * S
        story.machine.crashed(story.now_ns, "signal 11")
    assert story.machine.now.state is CameraState.BACKOFF and story.machine.crashes == 50


def test_what_no_try_can_cure_fails_at_once_and_a_failure_stays() -> None:
    story = Story()
    story.machine.lost(story.now_ns, "missing_backend", "no GStreamer")
    assert story.machine.now[::2] == (CameraState.FAILED, "missing_backend")
    story.machine.stop(story.now_ns)
    story.machine.lost(story.now_ns, "refused", "")
    assert story.states == ["FAILED"]


def test_a_stop_is_final() -> None:
    story = Story().opened()
    story.machine.stop(story.now_ns, "ended", "the clip is at its end")
    story.run(1)
    story.machine.crashed(story.now_ns, "")
    assert story.states == ["RUNNING", "STOPPED"] and not story.machine.wants_open


def test_delays_grow_to_five_seconds_with_jitter_and_begin_anew() -> None:
    backoff = Backoff(random.Random(1))
    for expected_s in (0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5):
        assert 0.8 * expected_s * S <= backoff.delay_ns("disconnected") <= expected_s * S
    assert len({backoff.delay_ns("timeout") for _ in range(20)}) == 20
    backoff.reset()
    assert backoff.delay_ns("timeout") <= 0.2 * S


@pytest.mark.parametrize("cause", ["auth", "permission", "codec"])
def test_a_refused_password_is_not_tried_often(cause: str) -> None:
    assert cause in CAUSES
    assert Backoff(random.Random(1)).delay_ns(cause) >= 4 * S


def test_delays_begin_anew_only_after_the_camera_was_well() -> None:
    story, delays_s = Story(), []
    for seconds in (1, 1, 1, 6):
        story.machine.asked(story.now_ns)
        story.run(seconds)
        story.machine.lost(story.now_ns, "disconnected", "")
        delays_s.append((story.machine.retry_ns - story.now_ns) / S)
    assert delays_s[0] < delays_s[1] < delays_s[2] and delays_s[3] <= 0.2


@pytest.mark.parametrize(
    ("gentle", "steps"),
    [(False, {700: "terminate", 1200: "kill", 2200: "abandon"}), (True, {700: "terminate", 1200: "abandon"})],
)
def test_a_process_is_asked_then_told_then_killed_unless_that_does_harm(gentle: bool, steps: dict[int, str]) -> None:
    ending = Ending(0, (0.7, 0.5, 1.0), gentle)
    assert {ms: step for ms in range(0, 5000, 50) if (step := ending.due(ms * MS))} == steps


def test_after_a_late_look_the_next_step_still_waits() -> None:
    ending = Ending(0, (0.7, 0.5, 1.0), gentle=False)
    due = [ending.due(int(seconds * S)) for seconds in (9, 9, 9.4, 9.5, 10.4, 10.5, 99)]
    assert due == ["terminate", "", "", "kill", "", "abandon", ""]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": "Front left"}, "camera name 'Front left' is not usable: give 1 to 32 characters of a-z"),
        ({"rotate": 45}, "camera a: rotate is 45: give one of 0, 90, 180, 270 degrees clockwise"),
        ({"slots": 2}, "camera a: slots is 2: give 3 to 16"),
        ({"max_age_ms": 0}, "camera a: max_age_ms is 0: give 1 to 60000"),
        ({"fps": float("nan")}, "camera a: fps is nan: give 0.01 to 1000"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_one_line(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(PspnetError, match=message.replace("(", r"\(")):
        CameraSettings(**{"name": "a", "uri": "test://pattern", **wrong})  # type: ignore[arg-type]
