"""A real RTSP server in a process of its own, and a proxy before it that hiccups and cuts: for tests and benchmarks."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.network_doubles import serving

ROOT = Path(__file__).parents[1]
CLIP = ROOT / "demo" / "video" / "solidWhiteRight.mp4"
SYSTEM_PYTHON = "/usr/bin/python3"
LOADED_S = 30.0
NEEDED = (
    "python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly"
)
MISSING = f"a real RTSP server needs: apt-get install {NEEDED}"


def has_rtsp_server() -> bool:
    """Whether Debian's own Python has gst-rtsp-server and all elements that the streams need."""
    code = (
        "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import Gst, GstRtspServer; "
        "Gst.init(None); "
        "assert all(map(Gst.ElementFactory.find, ['x264enc', 'rtph264pay', 'h264parse', 'qtdemux', 'jpegenc']))"
    )
    found = shutil.which(SYSTEM_PYTHON)
    return found is not None and not subprocess.run([found, "-c", code], capture_output=True).returncode


@contextlib.contextmanager
def rtsp_server(port: int, *credentials: str) -> Iterator[subprocess.Popen[str]]:
    """tests/rtsp_server.py at a port, from its first answer on. credentials: user, password and basic or digest."""
    command = [SYSTEM_PYTHON, str(ROOT / "tests" / "rtsp_server.py"), str(port), str(CLIP), *credentials]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@contextlib.contextmanager
def hiccuping(port: int) -> Iterator[tuple[int, threading.Event, Callable[[], None]]]:
    """A proxy that passes everything on, while the event is set; the function cuts what is connected, as its end does.

    It listens on, so whoever was cut may connect again.
    """
    flowing, connections = threading.Event(), list[socket.socket]()
    flowing.set()

    def cut() -> None:
        while connections:
            with contextlib.suppress(OSError):
                connections.pop().shutdown(socket.SHUT_RDWR)

    def handle(connection: socket.socket) -> None:
        connections.append(connection)
        with socket.create_connection(("127.0.0.1", port)) as server:

            def forward() -> None:
                with contextlib.suppress(OSError):
                    while block := connection.recv(65_536):
                        server.sendall(block)

            threading.Thread(target=forward, daemon=True).start()
            while block := server.recv(65_536):
                flowing.wait(LOADED_S)
                connection.sendall(block)

    with serving(handle) as proxy:
        yield proxy, flowing, cut
