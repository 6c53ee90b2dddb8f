"""A window for each camera on this machine's screen."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence

import cv2

from pspnet.errors import PspnetError
from pspnet.spec import NetworkSpec
from runtime.live_view import LiveView
from runtime.outlet import SinkEnded
from runtime.record import Record
from runtime.view_sink import ViewSink

QUIT_KEYS = (27, ord("q"))  # Escape
WIDEST = 1280
TRIAL, TRIAL_S = "import cv2; cv2.namedWindow('pspnet'); cv2.waitKey(1)", 20.0


class WindowSink(ViewSink):
    """Shows each camera in a window. cameras: those whose windows open at once. alpha: 0 shows the picture, 1 colours.

    on_quit: called where somebody presses q or Escape, or closes a window. PspnetError where there is no screen.
    """

    idle_s: float | None = 0.05  # a window that is not served does not even redraw itself

    def __init__(
        self,
        spec: NetworkSpec,
        cameras: Sequence[str],
        alpha: float = 0.5,
        on_quit: Callable[[], None] = lambda: None,
    ) -> None:
        check_screen()
        super().__init__(LiveView(spec, cameras, alpha, WIDEST))
        self._on_quit = on_quit
        self._open: set[str] = set()

    def idle(self) -> None:
        """Serve the windows; NO SIGNAL in place of pictures that have stopped coming."""
        super().idle()
        key = cv2.waitKey(1) & 0xFF if self._open else 0xFF
        closed = [name for name in self._open if cv2.getWindowProperty(_title(name), cv2.WND_PROP_VISIBLE) < 1]
        if key in QUIT_KEYS or closed:
            self.close()
            self._on_quit()
            raise SinkEnded("the window was closed")

    def close(self) -> None:
        """Close all windows."""
        if self._open:
            self._open.clear()
            cv2.destroyAllWindows()
            cv2.waitKey(1)  # closing takes effect with the next look at events

    def _show(self, record: Record, now_ns: int) -> None:
        title = _title(record.camera)
        if record.camera not in self._open:
            cv2.namedWindow(title, cv2.WINDOW_AUTOSIZE | cv2.WINDOW_GUI_NORMAL)
            self._open.add(record.camera)
        cv2.imshow(title, self._view.draw(record, now_ns))


def check_screen() -> None:
    """PspnetError where this OpenCV cannot show windows, or there is no screen to show them on."""
    gui = re.search(r"^\s*GUI:\s*(\S+)", cv2.getBuildInformation(), re.MULTILINE)
    if gui is None or gui.group(1).upper() == "NONE":
        raise PspnetError(
            "this OpenCV was built without windows: install opencv-python in place of opencv-python-headless, or watch "
            "on the web page"
        )
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.platform.startswith("linux") and not display:
        raise PspnetError("there is no screen (DISPLAY is not set): run it on the desktop, or watch on the web page")
    try:  # in a process of its own: where it cannot reach the screen, Qt aborts
        opened = subprocess.run([sys.executable, "-c", TRIAL], capture_output=True, timeout=TRIAL_S).returncode == 0
    except subprocess.TimeoutExpired:
        opened = False
    if not opened:
        raise PspnetError(f"no window can be opened on the screen {display}: log in there, or watch on the web page")


def _title(camera: str) -> str:
    return f"pspnet {camera}"
