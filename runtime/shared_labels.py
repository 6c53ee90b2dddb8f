"""Label maps of a running `pspnet run` in another process, through shared memory; needs numpy and nothing else.

    from runtime.shared_labels import LabelReader

    with LabelReader("drive-front") as reader:
        number = 0
        while True:
            found = reader.read(after=number, wait_s=1.0)
            number = found.number
            if found.valid:
                steer(found.labels)         # (H, W) uint8 of class indices, a copy that is the consumer's own
            else:
                slow_down(found.reason)

Reading never makes the writer wait, whatever a consumer does, and survives the writer's end and restart. Labels that
are older than the writer allows are INVALID here as well, so a writer that hangs or was killed leaves no valid ones; of
one that is gone, `reason` says so. What it has left behind is removed by the next run that shares labels.

The file /dev/shm/pspnet-labels-NAME, integers little-endian: HEADER_BYTES of header, then two slots, written in turn.
Header: magic, slot_bytes, and, each at a place of its own, CLOSED (not 0 once the writer has stopped), NEWEST (number
of the newest label map, from 1; it lies in slot number % 2), WRITER, and the classes as JSON. A slot begins with a word
that is odd while it is written, then a CRC-32 of all that follows: SLOT, the reason, and at LABELS_AT the labels row by
row.
The checksum tells what was read in the middle of a write, on processors that reorder their writes (ARM), too.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import struct
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path("/dev/shm")
MAGIC = b"PSLABEL1"
HEADER = struct.Struct("<8s q")
CLOSED_AT, NEWEST_AT, WRITER_AT, CLASSES_AT, HEADER_BYTES = 64, 128, 192, 256, 65536
WRITER = struct.Struct("<3q")
"""Process number, when it began (field 22 of /proc/PID/stat), and the number space that both are of (inode of
/proc/PID/ns/pid): in another container they mean nothing."""
SLOTS = 2
SLOT = struct.Struct("<6q d 4I")
"""number, sequence, captured_ns, wall_ns, sensor_ns, published_ns (-1: none), max_age_ms (NaN: none), height, width,
valid, bytes of the reason in UTF-8."""

CHECKSUM_AT, SLOT_AT, REASON_AT, REASON_BYTES, LABELS_AT = 8, 16, 96, 512, 4096
LONGEST_AGE_MS = 1000.0
"""Where the writer allows any age; what it has left behind must not stay valid for ever."""

TRIES, PAUSE_S = 200, 0.0005
LOOK_S = 0.1  # between two looks at whether the writer still lives


def path_of(name: str) -> Path:
    """The file of the label maps `name`."""
    return FOLDER / f"pspnet-labels-{name}"


def own_identity() -> tuple[int, int, int]:
    """WRITER of this process."""
    return os.getpid(), _began(os.getpid()), os.stat("/proc/self/ns/pid").st_ino


def is_gone(pid: int, began: int, number_space: int) -> bool | None:
    """Whether the process of a WRITER has ended; None where that cannot be told, as of one in another container."""
    try:
        if not pid or number_space != own_identity()[2]:
            return None
        return _began(pid) != began
    except OSError:  # it is hidden from us, or gone
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return None


def _began(pid: int) -> int:
    """When a process began, in ticks since the machine did; -1 of one that has ended and is not collected yet."""
    fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return -1 if fields[0] in "ZX" else int(fields[19])


@dataclass(frozen=True)
class SharedLabels:
    """One label map as a consumer sees it.

    labels: (H, W) uint8 at the camera's size, 255 unlabelled; None unless valid. reason: why it is not. number: counts
    what was published, from 1; 0 where nothing was. sequence: of the camera's picture. captured_ns, published_ns,
    sensor_ns: monotonic clock, the same in all processes of a machine; wall_ns: system clock at the capture; None
    where they are not known. age_ms: of the picture when it was read, from sensor_ns where that is known.
    """

    valid: bool
    reason: str
    labels: np.ndarray | None = None
    number: int = 0
    sequence: int = -1
    captured_ns: int | None = None
    wall_ns: int | None = None
    sensor_ns: int | None = None
    published_ns: int | None = None
    age_ms: float | None = None


def read_labels(name: str, max_age_ms: float | None = None) -> SharedLabels:
    """The newest label map `name`, once; `LabelReader` is cheaper for many. Never raises for a writer that is away."""
    with LabelReader(name, max_age_ms) as reader:
        return reader.read()


class LabelReader:
    """Label maps by name, for as long as one likes. max_age_ms: how old a picture may be, None for the writer's."""

    def __init__(self, name: str, max_age_ms: float | None = None) -> None:
        self.name, self._max_age_ms = name, max_age_ms
        self._memory: mmap.mmap | None = None
        self._identity: tuple[int, int] | None = None
        self._slot_bytes = 0
        self._looked_s, self._orphaned = 0.0, False

    def read(self, after: int = 0, wait_s: float = 0.0) -> SharedLabels:
        """The newest label map; waits up to `wait_s` for one whose number is not `after`, and else says that in
        `reason`. INVALID where there is none, it may not be used, or nobody writes, which is waited for as well."""
        end = time.monotonic() + wait_s
        while True:
            found = self._read()
            if found.number not in (0, after):
                return found
            if time.monotonic() >= end:
                reason = found.reason or f"no new label map for {wait_s:g} s"
                return found if found.number == 0 else self._without_labels(found, reason)
            time.sleep(PAUSE_S)

    def classes(self) -> dict[str, Any]:
        """What the labels mean: class_names, palette (RGB) and drivable (indices); empty where nobody writes."""
        if self._attach():
            return {}
        memory = self._memory
        assert memory is not None
        size_bytes = int.from_bytes(memory[CLASSES_AT : CLASSES_AT + 4], "little")
        return json.loads(memory[CLASSES_AT + 4 : CLASSES_AT + 4 + size_bytes])

    def close(self) -> None:
        """Give the memory back."""
        if self._memory is not None:
            self._memory.close()
        self._memory = self._identity = None

    def __enter__(self) -> LabelReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> SharedLabels:
        found = self._newest()
        if found.valid or not self._writer_is_gone():
            return found
        return SharedLabels(
            False, f"the process that wrote the label maps {self.name} is gone, and did not end in order"
        )

    def _writer_is_gone(self) -> bool:
        """Looked at ten times a second at most."""
        if self._memory is None or self._word(CLOSED_AT):
            return False
        now_s = time.monotonic()
        if not self._orphaned and now_s - self._looked_s >= LOOK_S:
            self._looked_s = now_s
            self._orphaned = is_gone(*WRITER.unpack_from(self._memory, WRITER_AT)) is True
        return self._orphaned

    def _newest(self) -> SharedLabels:
        if reason := self._attach():
            return SharedLabels(False, reason)
        memory = self._memory
        assert memory is not None
        if self._word(CLOSED_AT):
            return SharedLabels(False, f"the writer of the label maps {self.name} has stopped")
        for _ in range(TRIES):
            number = self._word(NEWEST_AT)
            if number == 0:
                return SharedLabels(False, "nothing has been published yet")
            found = self._slot(HEADER_BYTES + number % SLOTS * self._slot_bytes)
            if found is not None:
                return found
            time.sleep(PAUSE_S)
        return SharedLabels(False, f"the label maps {self.name} are damaged")

    def _slot(self, start: int) -> SharedLabels | None:
        """What a slot holds; None where it was written at the same time."""
        memory = self._memory
        assert memory is not None
        before = self._word(start)
        head = memory[start : start + REASON_AT + REASON_BYTES]
        number, sequence, *stamps, max_age_ms, height, width, valid, length = SLOT.unpack_from(head, SLOT_AT)
        size_bytes = height * width
        if before % 2 or LABELS_AT + size_bytes > self._slot_bytes or length > REASON_BYTES:
            return None
        labels = np.empty(size_bytes, np.uint8)
        labels[:] = np.frombuffer(memory, np.uint8, size_bytes, start + LABELS_AT)
        checksum = int.from_bytes(head[CHECKSUM_AT : CHECKSUM_AT + 4], "little")
        if self._word(start) != before or zlib.crc32(labels.data, zlib.crc32(head[SLOT_AT:])) != checksum:
            return None
        captured_ns, wall_ns, sensor_ns, published_ns = (None if stamp < 0 else stamp for stamp in stamps)
        born_ns = captured_ns if sensor_ns is None else sensor_ns
        age_ms = None if born_ns is None else (time.monotonic_ns() - born_ns) / 1e6
        reason = head[REASON_AT : REASON_AT + length].decode("utf-8", "replace")
        limit_ms = self._max_age_ms or (LONGEST_AGE_MS if math.isnan(max_age_ms) else max_age_ms)
        if valid and (age_ms is None or age_ms > limit_ms):
            valid, reason = 0, f"the picture is {age_ms or 0:.0f} ms old, at most {limit_ms:g} ms are allowed"
        picture = labels.reshape(height, width) if valid else None
        return SharedLabels(
            bool(valid), reason, picture, number, sequence, captured_ns, wall_ns, sensor_ns, published_ns, age_ms
        )

    def _attach(self) -> str:
        """Map the file that has the name now; why there is none, "" where there is one."""
        try:
            found = os.stat(path_of(self.name))
        except OSError:
            self.close()
            return f"nobody writes label maps named {self.name}"
        if self._identity == (found.st_dev, found.st_ino):
            return ""
        self.close()
        try:
            descriptor = os.open(path_of(self.name), os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            return f"the label maps {self.name} cannot be read: {error.strerror}"
        try:
            found = os.fstat(descriptor)
            memory = mmap.mmap(descriptor, found.st_size, access=mmap.ACCESS_READ) if found.st_size else None
        finally:
            os.close(descriptor)
        if memory is None or len(memory) < HEADER_BYTES or memory[: len(MAGIC)] != MAGIC:
            return f"{path_of(self.name)} holds no label maps of this version"
        self._slot_bytes = HEADER.unpack_from(memory)[1]
        if len(memory) < HEADER_BYTES + SLOTS * self._slot_bytes:
            return f"{path_of(self.name)} is cut short"
        self._memory, self._identity = memory, (found.st_dev, found.st_ino)
        self._looked_s, self._orphaned = 0.0, False
        return ""

    def _word(self, place: int) -> int:
        assert self._memory is not None
        return int.from_bytes(self._memory[place : place + 8], "little")

    def _without_labels(self, found: SharedLabels, reason: str) -> SharedLabels:
        return SharedLabels(
            False, reason, None, found.number, found.sequence, found.captured_ns, found.wall_ns, found.sensor_ns,
            found.published_ns, found.age_ms,
        )  # fmt: skip
