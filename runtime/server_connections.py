"""uvicorn with bounds that it lacks: on how many connect, how long they take to ask and to listen, and how it ends."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

FULL = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def bounded_server(app: Any, connections: int, request_bytes: int, patience_s: float, grace_s: float) -> Any:
    """A uvicorn.Server of an ASGI application, to be run in a thread; it handles no signals there and logs nothing.

    request_bytes: of a request's line and headers. patience_s: for sending a request and for taking what was sent.
    grace_s: how long answers may still take after should_exit is set.
    """
    import uvicorn

    config = uvicorn.Config(
        app, loop="asyncio", http=_bounded_protocol(connections, patience_s), ws="none", lifespan="off",
        log_config=None, log_level="critical", access_log=False, proxy_headers=False, server_header=False,
        h11_max_incomplete_event_size=request_bytes, timeout_keep_alive=max(round(patience_s), 1),
        timeout_graceful_shutdown=1, backlog=connections,
    )  # fmt: skip

    class BoundedServer(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            """End: nobody new, a moment for answers under way, and none for viewers who do not listen."""
            for server in self.servers:
                server.close()
            app.close()
            await asyncio.sleep(grace_s)
            for connection in list(self.server_state.connections):
                connection.transport.abort()
            await super().shutdown(sockets)

    return BoundedServer(config)


def _bounded_protocol(connections: int, patience_s: float) -> Any:
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class BoundedProtocol(H11Protocol):
        """One connection."""

        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self._asking: asyncio.TimerHandle | None = None
            self._listening: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            """The kernel's buffer is all that holds pictures for a client, beside the one that is being sent."""
            transport.set_write_buffer_limits(high=0)
            super().connection_made(transport)
            if len(self.connections) > connections:
                transport.write(FULL)
                transport.close()
            else:
                self._asking = self.loop.call_later(patience_s, transport.abort)

        def data_received(self, data: bytes) -> None:
            """A request must be whole in time, however many small parts it comes in."""
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._asking = _ended(self._asking)
            elif self._asking is None:
                self._asking = self.loop.call_later(patience_s, self.transport.abort)

        def connection_lost(self, exc: Exception | None) -> None:
            """Nothing more to wait for."""
            self._asking, self._listening = _ended(self._asking), _ended(self._listening)
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            """The client takes more slowly than it is sent."""
            self._listening = self.loop.call_later(patience_s, self.transport.abort)
            super().pause_writing()

        def resume_writing(self) -> None:
            """The client has taken everything."""
            self._listening = _ended(self._listening)
            super().resume_writing()

    return BoundedProtocol


def _ended(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    if timer is not None:
        timer.cancel()
    return None
