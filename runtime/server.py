"""Server: the live page, its figures and pictures, and Prometheus metrics, over HTTP, in a thread of its own.

Slow, silent and too many clients cost others nothing: each connection has 5 s to send a request and to take what it was
sent, viewers are shown the newest picture and never a queue, and the eleventh stream and the 257th connection are
refused. Nothing here is waited for by the run, and its end takes less than a second.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import socket
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pspnet.errors import PspnetError
from runtime.board import Board
from runtime.security import REQUEST_BYTES, Access
from runtime.telemetry import Telemetry

if TYPE_CHECKING:
    from runtime.server_routes import Pages
    from runtime.server_stream import Pictures

LIBRARIES = ("uvicorn", "starlette", "prometheus_client")
MOST_CONNECTIONS = 256
MOST_STREAMS = 10
PATIENCE_S = 5.0
"""How long a client may take for sending a request, for taking an answer or one picture, and between two requests."""

SEND_BUFFER_BYTES = 1 << 17  # in the kernel, which doubles it; more would be pictures that a slow viewer sees late
START_S = 10.0
GRACE_S = 0.1
WORKERS = 2


class Server:
    """Serves a board and its telemetry at `url` from `start` until `stop`; a context manager does both.

    port: 0 for any that is free. token: what visitors must show; needed unless host is a loopback address. pictures:
    where JPEGs of the cameras come from; without them, and before `show`, there are figures only. names: further host
    names under which visitors come, as that of a proxy. PspnetError where the address cannot be had.
    """

    def __init__(
        self,
        telemetry: Telemetry,
        board: Board,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str | None = None,
        pictures: Pictures | None = None,
        names: Iterable[str] = (),
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._access = Access(host, token, names)
        self._telemetry, self._board, self._pictures = telemetry, board, pictures
        self._host, self._port, self._patience_s = host, port, patience_s
        self._thread: threading.Thread | None = None
        self._server: Any = None
        self._pages: Pages | None = None
        self._started = threading.Event()

    @property
    def url(self) -> str:
        """The address of the page. Where all addresses of this machine are served, it names the loopback one."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)
        return f"http://[{host}]:{self._port}/" if ":" in host else f"http://{host}:{self._port}/"

    def start(self) -> None:
        """Serve from now on."""
        from runtime.server_connections import bounded_server
        from runtime.server_routes import Pages

        for library in LIBRARIES:  # here, so that a missing one is found out now, and not by the first visitor
            importlib.import_module(library)
        listener = open_listener(self._host, self._port)
        self._port = listener.getsockname()[1]
        self._started.clear()
        pool = ThreadPoolExecutor(WORKERS, "page")
        self._pages = Pages(self._telemetry, self._board, self._access, self._pictures, pool, MOST_STREAMS)
        self._server = bounded_server(self._pages, MOST_CONNECTIONS, REQUEST_BYTES, self._patience_s, GRACE_S)

        def serving() -> None:
            try:
                asyncio.run(self._serve(listener))
            except Exception:
                logging.getLogger(__name__).exception("the live page ended")
            finally:
                listener.close()
                pool.shutdown(wait=False, cancel_futures=True)
                self._started.set()

        self._thread = threading.Thread(target=serving, name="server", daemon=True)
        self._thread.start()
        if not self._started.wait(START_S) or not self._thread.is_alive():
            raise PspnetError(f"the live page did not start on {self.url}; the log above says why")

    def show(self, pictures: Pictures) -> None:
        """Pictures come from here from now on. Until then the page says that the engine is loading."""
        self._pictures = pictures
        if self._pages is not None:
            self._pages.show(pictures)

    def stop(self, deadline_s: float = 1.0) -> bool:
        """End all connections and give the port back; whether that was done within `deadline_s`."""
        if self._thread is None:
            return True
        self._server.should_exit = True
        self._thread.join(deadline_s)
        return not self._thread.is_alive()

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def _serve(self, listener: socket.socket) -> None:
        serving = asyncio.ensure_future(self._server.serve(sockets=[listener]))
        while not self._server.started and not serving.done():
            await asyncio.sleep(0.005)
        self._started.set()
        await serving


def open_listener(host: str, port: int) -> socket.socket:
    """A socket that listens at the address; PspnetError where that cannot be had."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else a restart would have to wait
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)  # connections inherit it
            listener.bind(address)
            listener.listen(MOST_CONNECTIONS)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise PspnetError(
            f"cannot serve on {host}, port {port}: {error.strerror or error}. "
            "Choose another address or port; 0 is any free one"
        ) from error
    return listener
