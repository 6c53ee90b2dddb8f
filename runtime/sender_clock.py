"""A network camera's own time on our clock, so that a picture that waited on the way is known to be old.

A camera's stamps count from somewhere, and its clock runs a little faster or slower than ours. What is known is how
long each picture took against the quickest one of late: that one is taken for undelayed.
"""

from __future__ import annotations

from collections import deque

WINDOW_NS = 10 * 10**9
"""How long a quick picture counts: long against a hiccup of the network, short against the drift of two clocks."""


class SenderClock:
    """Maps a camera's stamps to the monotonic clock. One per connection."""

    def __init__(self) -> None:
        self._offsets: deque[tuple[int, int]] = deque()  # (captured_ns, offset_ns), offsets rising

    def local_ns(self, sender_ns: int, captured_ns: int) -> int:
        """Our time of a picture that the camera stamped sender_ns and that came at captured_ns, at the latest then."""
        offset = captured_ns - sender_ns
        while self._offsets and self._offsets[-1][1] >= offset:
            self._offsets.pop()
        self._offsets.append((captured_ns, offset))
        while self._offsets[0][0] < captured_ns - WINDOW_NS:
            self._offsets.popleft()
        return sender_ns + self._offsets[0][1]
