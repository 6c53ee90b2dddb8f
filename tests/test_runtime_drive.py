"""What a run tells its operator, and how it counts."""

from __future__ import annotations

import re

import pytest

from pspnet.errors import PspnetError
from pspnet.geometry import region_from_text
from runtime.camera_state import CameraState
from runtime.camera_status import CameraEvent
from runtime.telling_board import TellingBoard


def events(*states: tuple[CameraState, str]) -> list[CameraEvent]:
    """State events whose cause is the message's first word."""
    return [
        CameraEvent("front", "state", number, state, text.partition(" ")[0], text)
        for number, (state, text) in enumerate(states)
    ]


def test_a_camera_that_stays_away_is_told_of_once_and_of_every_new_reason(capsys: pytest.CaptureFixture[str]) -> None:
    board = TellingBoard({"front": 250.0})
    away, other = (CameraState.BACKOFF, "no route"), (CameraState.BACKOFF, "wrong password")
    again = (CameraState.CONNECTING, "")
    happened = events(again, away, again, away, again, away, again, other, again, (CameraState.RUNNING, ""), away)
    for event in happened:
        board.add_event(event)
    assert capsys.readouterr().err.splitlines() == [
        "pspnet: front is connecting",
        "pspnet: front is backoff: no route",
        "pspnet: front is backoff: wrong password",
        "pspnet: front is running",
        "pspnet: front is backoff: no route",  # the first outage after it ran
    ]
    assert len(board.events()) == len(happened)  # the page has them all


def test_pictures_of_no_use_are_told_of_once(capsys: pytest.CaptureFixture[str]) -> None:
    board = TellingBoard({"front": 250.0})
    for number in range(3):
        board.add_event(
            CameraEvent("front", "trouble", number, CameraState.RUNNING, message="camera front: its mask is 2x2")
        )
    assert capsys.readouterr().err == "pspnet: front: its pictures cannot be used: its mask is 2x2\n"


def test_an_output_that_fails_is_told_of_when_it_does_and_when_it_works_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    board = TellingBoard({"front": 250.0})
    states = (
        ("running", ""), ("degraded", "OSError: full"), ("degraded", "OSError: full"), ("running", ""),
        ("degraded", "OSError: full"), ("running", ""), ("stuck", "for 2 s"), ("stuck", "for 3 s"),
    )  # fmt: skip
    for state, message in states:
        board.set_outlets([{"name": "jsonl", "state": state, "message": message}])
    assert capsys.readouterr().err.splitlines() == [
        "pspnet: output jsonl is degraded: OSError: full",
        "pspnet: output jsonl works again",
        "pspnet: output jsonl is stuck: for 2 s",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0x0+0+0", "height and width must be 1 or more; write HEIGHTxWIDTH"),
        ("0x20+0+0", "must be 1 or more"),
        ("20x0+0+0", "must be 1 or more"),
        ("-2x20+0+0", "': write HEIGHTxWIDTH"),
        ("20x20+-1+0", "': write HEIGHTxWIDTH"),
    ],
)
def test_a_region_without_an_area_is_refused(text: str, words: str) -> None:
    with pytest.raises(PspnetError, match=re.escape(words)):
        region_from_text(text)
