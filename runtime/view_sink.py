"""What the sinks that show a live view have in common: when something is drawn. Each of them says where to."""

from __future__ import annotations

import time

from runtime.live_view import LiveView
from runtime.outlet import Sink
from runtime.record import Record


class ViewSink(Sink):
    """A sink that draws `LiveView` pictures; a subclass puts them somewhere in `_show`."""

    wants = frozenset({"picture"})

    def __init__(self, view: LiveView) -> None:
        self._view = view

    def __call__(self, record: Record) -> None:
        """Show one record."""
        now_ns = time.monotonic_ns()
        self._view.note(record, now_ns)
        self._show(record, now_ns)
        self.idle()

    def idle(self) -> None:
        """NO SIGNAL in place of pictures that have stopped coming."""
        now_ns = time.monotonic_ns()
        for record in self._view.overdue(now_ns):
            self._show(record, now_ns)

    def _show(self, record: Record, now_ns: int) -> None:
        """Draw a record, if it is to be seen. now_ns: the monotonic clock."""
        raise NotImplementedError
