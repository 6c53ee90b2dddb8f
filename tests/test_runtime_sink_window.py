"""Windows: what is shown, how they close, and a machine without a screen. OpenCV's windows are stood in for."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from pspnet.errors import PspnetError
from runtime.live_view import EMPTY_LEVEL
from runtime.outlet import Outlet, OutletState, SinkEnded
from runtime.sink_window import WindowSink
from tests.live_records import PATIENCE_S, SPEC, record_of, until

NO_KEY = -1


class Screen:
    """OpenCV's windows: what they show, the next key, and which the user has closed."""

    def __init__(self) -> None:
        self.shown: dict[str, np.ndarray] = {}
        self.key = NO_KEY
        self.closed: set[str] = set()

    def namedWindow(self, title: str, flags: int) -> None:
        self.shown[title] = np.empty(0)

    def imshow(self, title: str, picture: np.ndarray) -> None:
        assert title in self.shown
        self.shown[title] = picture.copy()

    def waitKey(self, delay: int) -> int:
        return self.key

    def getWindowProperty(self, title: str, what: int) -> float:
        return float(title not in self.closed)

    def destroyAllWindows(self) -> None:
        self.shown.clear()


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Screen]:
    screen = Screen()
    for name in ("namedWindow", "imshow", "waitKey", "getWindowProperty", "destroyAllWindows"):
        monkeypatch.setattr(cv2, name, getattr(screen, name))
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:                           QT5\n")
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr("runtime.sink_window.TRIAL", "")
    yield screen


def test_each_camera_has_a_window_from_the_start(screen: Screen) -> None:
    sink = WindowSink(SPEC, ["front", "rear"])
    sink.idle()
    assert set(screen.shown) == {"pspnet front", "pspnet rear"}
    assert (screen.shown["pspnet rear"][:40] == EMPTY_LEVEL).all()
    sink(record_of(1, (240, 320)))
    assert screen.shown["pspnet front"].shape == (240, 320, 3) and screen.shown["pspnet front"].mean() > 60
    sink.close()
    assert screen.shown == {}


@pytest.mark.parametrize("key", [27, ord("q"), ord("q") | 0x100000])
def test_a_key_quits(screen: Screen, key: int) -> None:
    quits: list[int] = []
    outlet = Outlet(WindowSink(SPEC, ["front"], on_quit=lambda: quits.append(1)), "window")
    outlet.start()
    until(lambda: bool(screen.shown))
    screen.key = key
    until(lambda: outlet.status().state is OutletState.ENDED)
    assert quits == [1] and screen.shown == {}
    assert outlet.stop(PATIENCE_S).message == "the window was closed"


def test_closing_one_window_quits(screen: Screen) -> None:
    quits: list[int] = []
    sink = WindowSink(SPEC, ["front", "rear"], on_quit=lambda: quits.append(1))
    sink(record_of(1))
    screen.closed.add("pspnet rear")
    with pytest.raises(SinkEnded):
        sink(record_of(2))
    assert quits == [1]


def test_other_keys_do_nothing(screen: Screen) -> None:
    sink = WindowSink(SPEC, ["front"])
    screen.key = ord("x")
    sink(record_of(1))
    assert "pspnet front" in screen.shown


def test_a_screen_that_cannot_be_reached_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    if "QT" not in cv2.getBuildInformation().split("GUI:")[1].split("\n")[0]:
        pytest.skip("this OpenCV has no Qt windows")
    monkeypatch.setenv("DISPLAY", ":9876")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(PspnetError, match="no window can be opened on the screen :9876"):
        WindowSink(SPEC, ["front"])


def test_without_a_screen_it_is_refused(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(PspnetError, match="DISPLAY is not set"):
        WindowSink(SPEC, ["front"])
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:                           NONE\n")
    with pytest.raises(PspnetError, match="built without windows"):
        WindowSink(SPEC, ["front"])
