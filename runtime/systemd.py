"""What a service tells systemd: that it is ready, alive, ending, and how it is. Silent where systemd did not start it.

Written without libsystemd: a message is one datagram to the socket in NOTIFY_SOCKET (man 3 sd_notify).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping

SHARE_OF_LIMIT = 0.4  # systemd's manual advises half the limit or less


def notify(message: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Send a message such as READY=1; False where nobody listens, which is no error."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as connection:
        try:
            connection.connect("\0" + address[1:] if address.startswith("@") else address)
            connection.send(message.encode())
        except OSError:  # systemd is busy or away; the service goes on, and its next message tells more
            return False
    return True


class ServiceWatchdog:
    """Sends WATCHDOG=1, but only while frames progress: a run that hangs, or gets no picture from any camera for longer
    than WatchdogSec, is ended and started again by systemd.

    interval_s: how often at most; None where systemd watches nothing.
    """

    def __init__(
        self, environment: Mapping[str, str] = os.environ, clock: Callable[[], float] = time.monotonic
    ) -> None:
        limit, watched = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", str(os.getpid()))
        asked = limit.isdecimal() and int(limit) > 0 and watched == str(os.getpid())
        self.interval_s = int(limit) / 1e6 * SHARE_OF_LIMIT if asked else None
        self._environment, self._clock = environment, clock
        self._seen, self._sent_s = 0, -float("inf")

    def see(self, frames: int) -> bool:
        """Told how many frames have been segmented since the start, sends what is due; whether it sent."""
        now_s = self._clock()
        if self.interval_s is None or frames == self._seen or now_s - self._sent_s < self.interval_s:
            return False
        self._seen, self._sent_s = frames, now_s
        return notify("WATCHDOG=1", self._environment)
