"""Files of a run that goes on for days: room is kept free, every file is whole, and one that was removed comes back."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pspnet.dataset_classes import classes_from_json
from pspnet.errors import PspnetError
from pspnet.files import replaceable_file, write_json
from pspnet.spec import NetworkSpec
from runtime.record import Record
from runtime.sink import classes_json, writing

FLOOR_BYTES = 1 << 30
"""Recordings leave so much of a disk free: a full one takes the whole vehicle computer down."""
LOCK_S, LOCK_PAUSE_S = 0.5, 0.005  # how long another's look at a file may take


def check_room(folder: Path, floor_bytes: int) -> None:
    """PspnetError where the disk of `folder` has less than `floor_bytes` left; makes the folder if it is missing."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        free_bytes = shutil.disk_usage(folder).free
    if free_bytes < floor_bytes:
        raise PspnetError(
            f"cannot write {folder}: {free_bytes / 2**20:.0f} MiB are left on its disk, and {floor_bytes / 2**20:.0f} "
            "MiB are kept free. Remove old recordings, or set a lower floor"
        )


def locked(descriptor: int, wait_s: float = LOCK_S) -> bool:
    """Whether this process has the lock of an open file now, until the descriptor is closed or the process dies.

    False where a living process has it for longer than `wait_s`, in whatever container it runs; OSError where the file
    system has no locks.
    """
    end_s = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= end_s:
                return False
            time.sleep(LOCK_PAUSE_S)


def check_unwritten(path: Path) -> None:
    """PspnetError where a living run adds its lines to this file."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # there is none yet; whether it can be written is told elsewhere
        return
    try:
        _lock(descriptor, path)
    finally:
        os.close(descriptor)


def new_file_of_ours(path: Path) -> int:
    """Make an empty file that others see is being written: the descriptor whose lock says so. It is to be closed.

    OSError where it cannot be made.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            _lock(descriptor, path)
            if _is_at(path, descriptor):  # else another run has removed it before it was locked
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


@contextlib.contextmanager
def orphan(path: Path) -> Iterator[bool]:
    """Whether the process that wrote this file is dead; until the block ends no other run thinks so as well."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:  # somebody else's, or gone
        yield False
        return
    try:
        try:
            dead = locked(descriptor, 0) and _is_at(path, descriptor)
        except OSError:  # without locks nobody can know
            dead = False
        yield dead
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> None:
    """PspnetError where another process has the lock. On a file system without locks nothing is locked."""
    try:
        free = locked(descriptor)
    except OSError:
        return
    if not free:
        raise PspnetError(f"another run writes {path}: stop it, or give this one a place of its own")


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the path still leads to the open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def stem_of(record: Record) -> str:
    """A name for files of a record that sorts by time and is not used twice: camera_20261121T214800.123Z_000042."""
    return f"{record.camera}_{stamp_from_wall(record.wall_ns)}_{max(record.sequence, 0):06d}"


def stamp_from_wall(wall_ns: int | None) -> str:
    """20261121T214800.123Z of the system clock's nanoseconds; None is now."""
    wall_ns = time.time_ns() if wall_ns is None else wall_ns
    clock = time.strftime("%Y%m%dT%H%M%S", time.gmtime(wall_ns // 10**9))
    return f"{clock}.{wall_ns // 10**6 % 1000:03d}Z"


def write_whole(path: Path, image: np.ndarray, *options: int) -> None:
    """Write a picture in the format of the suffix so that nobody sees a part of it; makes its folder if need be."""
    temporary = path.with_name(f".{path.name}")
    data = cv2.imencode(path.suffix, image, list(options))[1]
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data.data)
            os.replace(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def write_classes(folder: Path, spec: NetworkSpec, licence: str) -> None:
    """Make a folder and its classes.json; PspnetError where it holds labels of other classes already."""
    path = folder / "classes.json"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        write_json(path, classes_json(spec, licence))
    elif classes_from_json(path).names != tuple(spec.class_names):
        raise PspnetError(f"{folder} holds labels of other classes: choose another folder for those of this artefact")


class Lines:
    """JSON lines at the end of a file, each whole or absent; a file that was moved away, by logrotate say, is begun
    anew. PspnetError where it cannot be written, and where another process writes lines into it."""

    def __init__(self, path: str | Path) -> None:
        self.path = replaceable_file(path)
        self._descriptor = -1
        self._open()

    def append(self, line: Mapping[str, Any]) -> None:
        """Write one line to the system."""
        data = json.dumps(line, allow_nan=False).encode() + b"\n"
        with writing(self.path):
            if self._moved():
                self._open()
            end = os.lseek(self._descriptor, 0, os.SEEK_END)
            try:
                written = os.write(self._descriptor, data)
                if written < len(data):  # the disk became full in the middle; the next write says so itself
                    written += os.write(self._descriptor, data[written:])
            except OSError:
                os.ftruncate(self._descriptor, end)
                raise

    def close(self) -> None:
        """Give the file back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> None:
        self.close()
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            try:
                _lock(self._descriptor, self.path)
            except PspnetError:
                self.close()
                raise
            end = os.lseek(self._descriptor, 0, os.SEEK_END)
            if end and os.pread(self._descriptor, 1, end - 1) != b"\n":  # a power cut left half a line
                os.write(self._descriptor, b"\n")

    def _moved(self) -> bool:
        return self._descriptor < 0 or not _is_at(self.path, self._descriptor)
