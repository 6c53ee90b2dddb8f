"""Label maps in shared memory for other processes, who read them with `runtime.shared_labels`."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import mmap
import os
import re
import stat
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pspnet.errors import PspnetError
from pspnet.spec import NetworkSpec
from runtime.frame_ring import page_rounded
from runtime.live_files import locked
from runtime.outlet import Sink
from runtime.record import Record
from runtime.shared_labels import (
    CHECKSUM_AT,
    CLASSES_AT,
    CLOSED_AT,
    HEADER,
    HEADER_BYTES,
    LABELS_AT,
    MAGIC,
    NEWEST_AT,
    REASON_AT,
    REASON_BYTES,
    SLOT,
    SLOT_AT,
    SLOTS,
    WRITER,
    WRITER_AT,
    is_gone,
    own_identity,
    path_of,
)

NAME = r"[a-z0-9_-]{1,64}"
FIRST_PIXELS = 720 * 1280  # room before the first picture is seen; larger ones get a new file
YOUNG_S = 60.0  # so long a file that has no writer's name in it yet is left to whoever is making it


class SharedLabelsSink(Sink):
    """The newest label map of each camera, and INVALID with its reason where there is none that may be used.

    cameras: their names are those of the label maps, with `prefix` before them. mode: rights of the files; 0o644 lets
    other users of the machine read. PspnetError where another process writes under a name, or /dev/shm is full. What
    writers that were killed have left behind, under any name, is removed first.
    """

    def __init__(self, spec: NetworkSpec, cameras: Sequence[str], prefix: str = "", mode: int = 0o600) -> None:
        self._files: dict[str, LabelFile] = {}
        remove_orphans()
        try:
            for camera in cameras:
                self._files[camera] = LabelFile(prefix + camera, spec, mode)
        except BaseException:
            self.close()
            raise

    def __call__(self, record: Record) -> None:
        """Publish one record."""
        self._files[record.camera].publish(record)

    def close(self) -> None:
        """Tell consumers that there is nothing more to come, and remove the files."""
        for file in self._files.values():
            file.close()


def remove_orphans() -> list[Path]:
    """Remove the label maps whose writer was killed; returns their files. Those of a living one are never touched.

    A writer holds a lock on its file as long as it lives, whatever container it runs in; where its process can be
    looked for by its number and the time when it began, it must be gone as well.
    """
    name = path_of("").name
    found = [path for pattern in (f"{name}*", f".{name}*") for path in path_of("").parent.glob(pattern)]
    return [path for path in found if _removed_orphan(path)]


def _removed_orphan(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:  # somebody else's, or removed in between
        return False
    try:
        there = os.fstat(descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        head = os.pread(descriptor, WRITER.size, WRITER_AT)
        writer = WRITER.unpack(head) if len(head) == WRITER.size else (0, 0, 0)
        young = not writer[0] and time.time() - there.st_mtime < YOUNG_S
        if young or is_gone(*writer) is False:
            return False
        if not stat.S_ISREG(there.st_mode) or not os.path.samestat(os.stat(path), there):
            return False
        path.unlink()
        return True
    except OSError:  # it is locked: its writer lives
        return False
    finally:
        os.close(descriptor)


class LabelFile:
    """The file of one name, in which this process alone writes."""

    def __init__(self, name: str, spec: NetworkSpec, mode: int) -> None:
        if not re.fullmatch(NAME, name):
            raise PspnetError(f"shared labels {name!r}: a name has 1 to 64 characters of a-z, 0-9, _ and -")
        self._path, self._mode = path_of(name), mode
        self._temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        classes = {"class_names": spec.class_names, "palette": spec.palette, "drivable": spec.drivable}
        self._classes = json.dumps(classes).encode()
        if len(self._classes) > HEADER_BYTES - CLASSES_AT - 4:
            raise PspnetError(f"shared labels {name}: the names of the classes take more than 64 KiB: shorten them")
        self._number = 0
        self._memory: _Memory | None = None
        self._replace(self._new_memory(FIRST_PIXELS))

    def publish(self, record: Record) -> None:
        """Write a record into the slot that does not hold the newest one."""
        pixels = 0 if record.labels is None else record.labels.size
        self._number += 1
        if self._memory is not None and self._memory.room(pixels) and not self._gone():
            self._memory.write(record, self._number)
            return
        memory = self._new_memory(max(pixels, FIRST_PIXELS))  # consumers see it when the record is in it
        memory.write(record, self._number)
        self._replace(memory)

    def close(self) -> None:
        """Mark the file as ended, for those who have it mapped, and remove it."""
        if self._memory is None:
            return
        self._memory.set_word(CLOSED_AT, 1)
        if not self._gone():
            self._path.unlink()
        self._memory.close()
        self._memory = None

    def _gone(self) -> bool:
        """Whether the name leads elsewhere than to the file that we write."""
        assert self._memory is not None
        try:
            return not os.path.samestat(os.stat(self._path), os.fstat(self._memory.descriptor))
        except FileNotFoundError:
            return True

    def _new_memory(self, pixels: int) -> _Memory:
        """A file under a temporary name with room for label maps of so many pixels."""
        try:
            descriptor = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                return _Memory(descriptor, page_rounded(LABELS_AT + pixels), self._classes, self._mode)
            except BaseException:
                os.close(descriptor)
                self._temporary.unlink()
                raise
        except OSError as error:
            folder = self._path.parent
            raise PspnetError(
                f"cannot write shared labels {self._path}: {error.strerror}. Free space (see df -h {folder}), or start "
                "the container with a larger --shm-size"
            ) from error

    def _replace(self, memory: _Memory) -> None:
        """Give the file its name, unless another process writes under it."""
        try:
            with contextlib.ExitStack() as stack:
                stack.callback(self._temporary.unlink, missing_ok=True)
                while not self._take_name(stack):
                    pass
        except BaseException:
            memory.close()
            raise
        if self._memory is not None:
            self._memory.close()
        self._memory = memory

    def _take_name(self, stack: contextlib.ExitStack) -> bool:
        """False where another process was quicker, and what it did must be looked at again."""
        try:
            there = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                os.link(self._temporary, self._path)
                return True
            return False
        stack.callback(os.close, there)
        ours = self._memory is not None and not self._gone()
        if not ours and not locked(there):
            name = self._path.name.removeprefix(path_of("").name)
            raise PspnetError(
                f"another process writes the shared labels {name}: stop it, or choose another prefix for these"
            )
        try:
            if not os.path.samestat(os.stat(self._path), os.fstat(there)):
                return False
        except FileNotFoundError:
            return False
        os.replace(self._temporary, self._path)
        return True


class _Memory:
    """A file of label maps, mapped. The lock on it lasts as long as its descriptor is open, here or in no process."""

    def __init__(self, descriptor: int, slot_bytes: int, classes: bytes, mode: int) -> None:
        self.descriptor, self.slot_bytes = descriptor, slot_bytes
        size_bytes = HEADER_BYTES + SLOTS * slot_bytes
        os.posix_fallocate(descriptor, 0, size_bytes)  # where there is no room, a later write would die of SIGBUS
        os.fchmod(descriptor, mode)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        self._bytes = np.frombuffer(mmap.mmap(descriptor, size_bytes), np.uint8)
        self._put(WRITER_AT, WRITER.pack(*own_identity()))
        self._put(0, HEADER.pack(MAGIC, slot_bytes))
        self._put(CLASSES_AT, len(classes).to_bytes(4, "little") + classes)

    def room(self, pixels: int) -> bool:
        """Whether a label map of so many pixels fits."""
        return LABELS_AT + pixels <= self.slot_bytes

    def write(self, record: Record, number: int) -> None:
        """Publish a record under a number that is one more than the last."""
        start = HEADER_BYTES + number % SLOTS * self.slot_bytes
        self.set_word(start, 2 * number - 1)
        head = _packed(record, number)
        checksum = zlib.crc32(head)
        self._put(start + SLOT_AT, head)
        if record.labels is not None:
            labels = np.ascontiguousarray(record.labels).reshape(-1)
            self._bytes[start + LABELS_AT : start + LABELS_AT + labels.size] = labels
            checksum = zlib.crc32(labels.data, checksum)
        self._put(start + CHECKSUM_AT, checksum.to_bytes(4, "little"))
        self.set_word(start, 2 * number)
        self.set_word(NEWEST_AT, number)

    def set_word(self, place: int, value: int) -> None:
        """Write 8 bytes at once."""
        self._bytes[place : place + 8].view("<i8")[0] = value

    def close(self) -> None:
        """Let go of the lock; the memory goes with this object."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def _put(self, place: int, data: bytes) -> None:
        self._bytes[place : place + len(data)] = np.frombuffer(data, np.uint8)


def _packed(record: Record, number: int) -> bytes:
    """What a slot says of a record, from SLOT_AT to the end of the reason."""
    shape = (0, 0) if record.labels is None else record.labels.shape
    stamps = record.captured_ns, record.wall_ns, record.sensor_ns, record.published_ns
    reason = record.reason.encode()[:REASON_BYTES]
    fixed = SLOT.pack(
        number, record.sequence, *(-1 if stamp is None else stamp for stamp in stamps),
        math.nan if record.max_age_ms is None else record.max_age_ms, *shape, record.labels is not None, len(reason),
    )  # fmt: skip
    return fixed.ljust(REASON_AT - SLOT_AT, b"\0") + reason.ljust(REASON_BYTES, b"\0")
