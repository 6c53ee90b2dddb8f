"""Our side of a camera's memory: what was taken, what is lent, and what a new worker may write to."""

from __future__ import annotations

import threading

import numpy as np

from runtime.camera_status import DROPS
from runtime.frame_ring import Channel, Gauges, Ring, Token


class CameraMemory:
    """The channel, gauges and rings of one camera, over all of its workers. Every method may come from any thread."""

    def __init__(self, name: str, slots: int) -> None:
        self._name, self._slots = name, slots
        self._lock = threading.Lock()  # between our own threads; no worker ever holds it
        self.gauges = Gauges.reserve(name)
        self._channel: Channel | None = Channel.open()
        self._rings: dict[int, Ring] = {}
        self._current: Ring | None = None
        self._used = 0
        self._lent: dict[int, tuple[int, int]] = {}  # sequence -> (ring, slot)
        self._dropped = {"stale": 0, "restart": 0, "corrupt": 0}
        self.wakeup = self._channel.mailbox[0]

    @property
    def descriptors(self) -> tuple[int, int, int, int]:
        """Of the channel, for a worker."""
        assert self._channel is not None
        return self._channel.descriptors

    def take(self, now_ns: int, max_age_ns: int) -> tuple[np.ndarray, Token] | None:
        """The waiting picture, read-only, and what is known of it. It is lent from now on.

        Too old are pictures whose sensor's stamp, or arrival where there is none, lies more than max_age_ns back.
        """
        with self._lock:
            if self._channel is None:
                return None
            try:
                token = self._channel.take()
                if token is None:
                    return None
                ring = self._rings[token.ring]
                image = ring.picture(token.slot, token.shape)
            except (ValueError, KeyError):  # a process that decodes foreign data is not believed
                self._dropped["corrupt"] += 1
                return None
            born_ns = token.captured_ns if token.sensor_ns is None else token.sensor_ns
            if now_ns - born_ns > max_age_ns:
                self._dropped["stale"] += 1
                self._return(ring.number, token.slot)
                return None
            self._lent[token.sequence] = ring.number, token.slot
        image.flags.writeable = False
        return image, token

    def release(self, sequence: int) -> None:
        """The picture of that number is lent no longer."""
        with self._lock:
            lent = self._lent.pop(sequence, None)
            if lent is not None:
                self._return(*lent)

    def buffers(self) -> list[np.ndarray]:
        """The memory of all rings in use."""
        with self._lock:
            return [ring.data for ring in self._rings.values()]

    def drops(self) -> dict[str, int]:
        """Pictures dropped so far, by cause."""
        return {cause: self._dropped.get(cause, 0) + self.gauges.get(cause, 0) for cause in DROPS}

    def reserve(self, picture_bytes: int) -> Ring:
        """A new ring, for pictures of that size; PspnetError where there is no room for it.

        The one before it is used until `retire`.
        """
        number = self._current.number + 1 if self._current is not None else 1
        ring = Ring.reserve(self._name, number, picture_bytes, self._slots)
        with self._lock:
            self._rings[number] = self._current = ring
        return ring

    def retire(self, number: int) -> bool:
        """Give back the rings before that one; their memory goes with the last picture that is lent of it.

        Returns whether the worker uses a ring that no worker before it used.
        """
        with self._lock:
            new, self._used = number != self._used, number
            for older in [ring for ring in self._rings if ring < number]:
                self._rings.pop(older).close()
        return new

    def handover(self) -> tuple[Ring, list[int]] | None:
        """The ring for a new worker, and the slots in it that are free; None where there is no ring yet.

        Only for when the worker before it is dead: what it had announced is dropped.
        """
        with self._lock:
            if self._channel is None:
                return None
            try:
                self._dropped["restart"] += self._channel.take() is not None
            except ValueError:
                self._dropped["restart"] += 1
            self._channel.given_back()
            if self._current is None:
                return None
            for older in [ring for ring in self._rings if ring < self._current.number]:
                self._rings.pop(older).close()
            lent = {slot for ring, slot in self._lent.values() if ring == self._current.number}
            return self._current, [slot for slot in range(self._slots) if slot not in lent]

    def close(self) -> None:
        """Give back all descriptors and, as far as no picture is lent, the memory. The gauges can still be read."""
        with self._lock:
            if self._channel is None:
                return
            self._channel.close()
            self._channel, self._current = None, None
            for ring in self._rings.values():
                ring.close()
            self._rings.clear()
            self.gauges.close()

    def _return(self, ring: int, slot: int) -> None:
        if self._channel is not None and self._current is not None and ring == self._current.number:
            self._channel.give_back(ring, slot)
