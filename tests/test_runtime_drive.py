"""What a run tells its operator, and how it counts."""

from __future__ import annotations

import pytest

from runtime.board import Board
from runtime.camera_state import CameraState
from runtime.camera_status import CameraEvent
from runtime.drive import _Teller


def events(*states: tuple[CameraState, str]) -> list[CameraEvent]:
    return [CameraEvent("front", "state", number, state, message=text) for number, (state, text) in enumerate(states)]


def test_a_camera_that_stays_away_is_told_of_once_and_of_every_new_reason(capsys: pytest.CaptureFixture[str]) -> None:
    board = Board({"front": 250.0})
    tell = _Teller(board)
    away, other = (CameraState.BACKOFF, "no route"), (CameraState.BACKOFF, "wrong password")
    again = (CameraState.CONNECTING, "")
    happened = events(again, away, again, away, again, away, again, other, again, (CameraState.RUNNING, ""), away)
    for event in happened:
        tell(event)
    assert capsys.readouterr().err.splitlines() == [
        "pspnet: front is connecting",
        "pspnet: front is backoff: no route",
        "pspnet: front is backoff: wrong password",
        "pspnet: front is running",
        "pspnet: front is backoff: no route",
    ]
    assert len(board.events()) == len(happened)  # the page has them all
