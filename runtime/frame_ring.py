"""Pictures from a camera's process to ours through shared memory, without a lock that a killed process could keep.

A slot of the ring belongs to one side at a time. The writer announces a full slot by a token in the mailbox, a pipe
that never holds more than one: before it puts in a new one it takes back the old, if nobody has taken that, so the
newest wins and the writer knows what was dropped. Who reads the token owns the slot; the reader gives it back through a
second pipe. In the kernel, reads and writes of so few bytes are whole or not at all, whatever moment a process is
stopped or killed at, and they order memory between the two processes, on ARM too.

The memory is anonymous (memfd): it ends with its last user, and it is not taken from /dev/shm, which containers make
small. All of it is reserved when it is made, so that no later write can die of a bus error.
"""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pspnet.errors import PspnetError
from pspnet.spec import LARGEST_SIDE
from runtime.frame import FORMATS

CGROUP = Path("/sys/fs/cgroup")
MATRICES = ("601", "709")
LARGEST_PICTURE_BYTES = 256 * 2**20
_TOKEN = struct.Struct("<2I 3q 3I 3B x")
_RETURN = struct.Struct("<2I")
GAUGES = (
    "frames", "last_frame_ns", "period_ns", "fps_milli", "frozen", "repeated", "height", "width", "busy", "held",
    "corrupt", "storm", "stamps_invalid",
)  # fmt: skip
"""Words that the worker writes and the parent reads, each by itself; the counters go on over all workers."""

SCRIPT_WORD, SCRIPT_WORDS = 64, 64  # where a test camera keeps its place in the script


def page_rounded(size_bytes: int) -> int:
    """The smallest multiple of the page size that holds `size_bytes`."""
    return -(-size_bytes // mmap.PAGESIZE) * mmap.PAGESIZE


def reserved_memory(name: str, size_bytes: int) -> int:
    """A descriptor of anonymous shared memory, all of whose pages are there; PspnetError where they are not to be had.

    name: what /proc shows.
    """
    free_bytes = unused_memory_bytes()
    reason = f"{free_bytes / 2**20:.1f} MiB are free" if free_bytes < size_bytes else ""
    descriptor = -1
    try:
        if not reason:
            descriptor = os.memfd_create(f"pspnet-{name}", os.MFD_CLOEXEC)
            os.posix_fallocate(descriptor, 0, size_bytes)
            return descriptor
    except OSError as error:
        if descriptor >= 0:
            os.close(descriptor)
        reason = error.strerror or str(error)
    raise PspnetError(
        f"camera {name}: {size_bytes / 2**20:.1f} MiB of shared memory are needed for its pictures and cannot be had "
        f"({reason}): free memory, raise the container's limit, or ask the camera for a smaller picture"
    )


def unused_memory_bytes() -> int:
    """What may still be taken: of the machine, and of the container's share, beyond which the kernel kills."""
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free_bytes = int(fields["MemAvailable"].split()[0]) * 1024
    try:
        limit, used = (int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        counts = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return free_bytes
    return min(free_bytes, limit - used + int(counts["inactive_file"]))


class Ring:
    """Slots for pictures, mapped for as long as anybody looks at one. data: (bytes,) uint8, page-aligned.

    Closing gives back the descriptor; the memory goes with the last array that shows it.
    """

    def __init__(self, number: int, descriptor: int, slot_bytes: int, slots: int) -> None:
        self.number, self.descriptor, self.slot_bytes, self.slots = number, descriptor, slot_bytes, slots
        flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
        memory = mmap.mmap(descriptor, slot_bytes * slots, flags=flags)
        self.data = np.frombuffer(memory, np.uint8)

    @classmethod
    def reserve(cls, name: str, number: int, picture_bytes: int, slots: int) -> Ring:
        """A new ring for pictures of up to `picture_bytes`; PspnetError where there is no room."""
        if not 0 < picture_bytes <= LARGEST_PICTURE_BYTES:
            raise PspnetError(
                f"camera {name}: a picture of {picture_bytes / 2**20:.0f} MiB is more than the "
                f"{LARGEST_PICTURE_BYTES >> 20} MiB that are taken: ask the camera for a smaller one"
            )
        slot_bytes = page_rounded(picture_bytes)
        return cls(number, reserved_memory(name, slot_bytes * slots), slot_bytes, slots)

    def picture(self, slot: int, shape: tuple[int, ...]) -> np.ndarray:
        """The uint8 array of that shape at the start of a slot; ValueError where there is none."""
        size_bytes = int(np.prod(shape))
        if not (0 <= slot < self.slots and size_bytes <= self.slot_bytes):
            raise ValueError(f"slot {slot} of {self.slots} has no room for {shape}")
        return self.data[slot * self.slot_bytes :][:size_bytes].reshape(shape)

    def close(self) -> None:
        """Give back the descriptor."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


@dataclass(frozen=True)
class Token:
    """What is known of a picture in a slot; fields as in `Frame`."""

    ring: int
    slot: int
    sequence: int
    captured_ns: int
    sensor_ns: int | None
    shape: tuple[int, ...]
    format: str
    matrix: str
    full_range: bool

    def packed(self) -> bytes:
        """The token as the mailbox holds it."""
        rows, columns, channels = (*self.shape, 0)[:3]
        colour = FORMATS.index(self.format), MATRICES.index(self.matrix), self.full_range
        stamp = -1 if self.sensor_ns is None else self.sensor_ns
        return _TOKEN.pack(
            self.ring, self.slot, self.sequence, self.captured_ns, stamp, rows, columns, channels, *colour
        )  # fmt: skip

    @classmethod
    def unpacked(cls, data: bytes) -> Token:
        """The token of `packed`; ValueError where the bytes are none, since they come from a process that decodes."""
        if len(data) != _TOKEN.size:
            raise ValueError(f"a token has {_TOKEN.size} bytes, not {len(data)}")
        ring, slot, sequence, captured_ns, stamp, rows, columns, channels, layout, matrix, full_range = _TOKEN.unpack(
            data
        )
        sound = 0 < rows <= 2 * LARGEST_SIDE and 0 < columns <= 2 * LARGEST_SIDE and channels in (0, 2, 3)
        if not sound or layout >= len(FORMATS) or matrix >= len(MATRICES):
            raise ValueError(f"no picture is {rows} x {columns} x {channels} of format {layout}")
        shape = (rows, columns, channels) if channels else (rows, columns)
        sensor_ns = None if stamp < 0 else stamp
        colour = FORMATS[layout], MATRICES[matrix], bool(full_range)
        return cls(ring, slot, sequence, captured_ns, sensor_ns, shape, *colour)


class Channel:
    """The mailbox and the way back, for the life of a camera; the descriptors are passed on to each worker."""

    def __init__(self, mailbox: tuple[int, int], returns: tuple[int, int]) -> None:
        self.mailbox, self.returns = mailbox, returns

    @classmethod
    def open(cls) -> Channel:
        """A new one, none of whose ends ever blocks."""
        return cls(os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC), os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC))

    @property
    def descriptors(self) -> tuple[int, int, int, int]:
        """Read and write end of the mailbox, read and write end of the way back."""
        return (*self.mailbox, *self.returns)

    def put(self, token: Token) -> None:
        """Writer: announces a picture; the mailbox must be empty."""
        os.write(self.mailbox[1], token.packed())

    def take(self) -> Token | None:
        """Either side: the waiting token, or None; ValueError where the bytes are none."""
        data = _read(self.mailbox[0], _TOKEN.size)
        return Token.unpacked(data) if data else None

    def give_back(self, ring: int, slot: int) -> None:
        """Reader: the slot may be written again."""
        os.write(self.returns[1], _RETURN.pack(ring, slot))

    def given_back(self) -> list[tuple[int, int]]:
        """Writer: (ring, slot) of what came back since the last call."""
        data = _read(self.returns[0], 512 * _RETURN.size)
        return list(_RETURN.iter_unpack(data))

    def close(self) -> None:
        """All four ends."""
        for descriptor in self.descriptors:
            os.close(descriptor)


class Writer:
    """The worker's side: where to write the next picture."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.ring: Ring | None = None
        self._free: list[int] = []

    def use(self, ring: Ring, free: list[int]) -> int:
        """From now on this ring, of which the slots `free` are ours. Returns how many waiting pictures were dropped."""
        dropped = self._channel.take() is not None
        if self.ring is not None:
            self.ring.close()
        self.ring, self._free = ring, free
        return int(dropped)

    def slot(self) -> tuple[int | None, int]:
        """(slot to write, or None where all are lent out; how many waiting pictures were dropped for it)."""
        assert self.ring is not None
        self._free += [slot for ring, slot in self._channel.given_back() if ring == self.ring.number]
        if self._free:
            return self._free.pop(), 0
        waiting = self._channel.take()
        return (waiting.slot, 1) if waiting is not None else (None, 0)

    def publish(self, token: Token) -> int:
        """Announce the slot that was written; returns how many waiting pictures it replaced."""
        waiting = self._channel.take()
        if waiting is not None:
            self._free.append(waiting.slot)
        self._channel.put(token)
        return int(waiting is not None)


class Gauges:
    """Counters and times that one process writes and another reads, one 8-byte word each."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.words = np.frombuffer(mmap.mmap(descriptor, mmap.PAGESIZE), np.int64)
        self._index = {name: index for index, name in enumerate(GAUGES)}

    @classmethod
    def reserve(cls, name: str) -> Gauges:
        """All words zero."""
        return cls(reserved_memory(name, mmap.PAGESIZE))

    def __getitem__(self, name: str) -> int:
        return int(self.words[self._index[name]])

    def __setitem__(self, name: str, value: int) -> None:
        self.words[self._index[name]] = value

    def get(self, name: str, default: int) -> int:
        """A word, or the default where there is no such word."""
        return self[name] if name in self._index else default

    def count(self, name: str, amount: int = 1) -> None:
        """Add to a counter."""
        self[name] += amount

    @property
    def script(self) -> np.ndarray:
        """(SCRIPT_WORDS,) int64, which outlives the worker."""
        return self.words[SCRIPT_WORD : SCRIPT_WORD + SCRIPT_WORDS]

    def close(self) -> None:
        """Give back the descriptor; the memory goes with this object."""
        os.close(self.descriptor)


def _read(descriptor: int, size_bytes: int) -> bytes:
    try:
        return os.read(descriptor, size_bytes)
    except BlockingIOError:
        return b""
