"""Label maps whose writer was killed: a reader is told, the next run removes them, and never those of a living one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import shared_labels, sink_shared_labels
from runtime.shared_labels import HEADER_BYTES, MAGIC, WRITER, WRITER_AT, LabelReader, is_gone, own_identity
from runtime.sink_shared_labels import SharedLabelsSink, remove_orphans
from tests.live_records import PATIENCE_S, SPEC, record_of

ROOT = Path(__file__).parents[1]
PRODUCER = """
import sys, time
from pathlib import Path
from runtime import shared_labels
shared_labels.FOLDER = Path(sys.argv[1])
from runtime.sink_shared_labels import SharedLabelsSink
from tests.live_records import SPEC, record_of
sink = SharedLabelsSink(SPEC, sys.argv[2:])
sink(record_of(41, size=(30, 40), camera=sys.argv[2], max_age_ms=50))
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of /dev/shm, in which other tests write at the same time."""
    monkeypatch.setattr(shared_labels, "FOLDER", tmp_path)
    return tmp_path


def writing(*names: str) -> subprocess.Popen:
    """A process that writes under these names."""
    producer = subprocess.Popen(
        [sys.executable, "-c", PRODUCER, str(shared_labels.FOLDER), *names], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert producer.stdout is not None and producer.stdout.readline() == "ready\n"
    return producer


@contextlib.contextmanager
def killed(producer: subprocess.Popen) -> Iterator[None]:
    """Kill a writer, and do not wait for it inside of the block, in which it is a zombie."""
    producer.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, producer.pid, os.WEXITED | os.WNOWAIT)
    yield
    producer.communicate()


def left() -> list[str]:
    """The names of the label maps that are there."""
    return sorted(path.name.removeprefix("pspnet-labels-") for path in shared_labels.FOLDER.iterdir())


def made(name: str, writer: tuple[int, int, int]) -> Path:
    """A file of label maps as that writer would have left it, without its lock."""
    path = shared_labels.path_of(name)
    path.write_bytes(MAGIC.ljust(WRITER_AT, b"\0") + WRITER.pack(*writer).ljust(HEADER_BYTES, b"\0"))
    return path


def test_a_reader_is_told_of_a_killed_writer_and_follows_the_next() -> None:
    with killed(writing("front", "rear")), LabelReader("front") as front, LabelReader("rear") as rear:
        found = front.read(after=1, wait_s=0.3)
        assert not found.valid and found.number == 0 and found.labels is None
        assert found.reason == "the process that wrote the label maps front is gone, and did not end in order"
        assert "is gone" in rear.read().reason  # where nothing had been published either
        sink = SharedLabelsSink(SPEC, ["front"])
        try:
            assert "nothing has been published yet" in front.read().reason
            sink(record_of(5, camera="front", max_age_ms=60_000))
            assert front.read(after=0, wait_s=PATIENCE_S).sequence == 5
            assert "nobody writes" in rear.read().reason
        finally:
            sink.close()


def test_a_run_of_any_name_removes_what_killed_ones_left_and_nothing_else() -> None:
    living, other = writing("living"), writing("front", "rear")
    try:
        with killed(other):
            assert left() == ["front", "living", "rear"]
            sink = SharedLabelsSink(SPEC, ["other"])
            assert left() == ["living", "other"]
        with LabelReader("living") as reader:
            assert reader.read().number == 1 and "is gone" not in reader.read().reason
        assert remove_orphans() == []
        sink.close()
    finally:
        living.kill()
        living.communicate()
    assert [path.name for path in remove_orphans()] == ["pspnet-labels-living"] and left() == []


def test_a_writer_is_known_by_number_and_time_and_by_its_lock() -> None:
    pid, began, space = own_identity()
    assert is_gone(pid, began, space) is False and is_gone(pid, began - 1, space) is True
    assert is_gone(pid, began, space + 1) is None and is_gone(0, 0, 0) is None
    made("alive", (pid, began, space))
    made("reused", (pid, began - 1, space))  # the number belongs to another process by now
    made("elsewhere", (pid, began, space + 1))  # of another container, where only the lock counts
    held = made("held", (pid, began - 1, space))
    with open(held) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        remove_orphans()
        assert left() == ["alive", "held"]
    remove_orphans()
    assert left() == ["alive"]


def test_a_file_that_is_being_made_and_what_is_no_file_are_left_alone(folder: Path) -> None:
    young, old, link = (shared_labels.path_of(name) for name in ("young", "old", "link"))
    young.touch()
    old.touch()
    os.utime(old, (time.time() - 2 * sink_shared_labels.YOUNG_S,) * 2)
    temporary = folder / ".pspnet-labels-front.1"
    temporary.touch()
    os.utime(temporary, (time.time() - 2 * sink_shared_labels.YOUNG_S,) * 2)
    other = folder / "other"
    other.touch()
    link.symlink_to(other)
    os.mkfifo(folder / "pspnet-labels-pipe")
    os.utime(folder / "pspnet-labels-pipe", (0, 0))
    assert {path.name for path in remove_orphans()} == {"pspnet-labels-old", ".pspnet-labels-front.1"}
    assert young.exists() and link.is_symlink() and other.exists() and (folder / "pspnet-labels-pipe").exists()


def test_a_look_at_a_file_is_no_living_writer() -> None:
    """Two runs that start at the same time: one looks at what a killed one left, the other takes the name."""
    path = made("front", (own_identity()[0], 1, own_identity()[2]))
    looks = subprocess.Popen(
        [sys.executable, "-c", "import fcntl, sys, time\nfile = open(sys.argv[1])\nfcntl.flock(file, fcntl.LOCK_EX)\n"
         "print('locked', flush=True)\nsys.stdin.readline()\ntime.sleep(0.1)", str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert looks.stdout is not None and looks.stdin is not None and looks.stdout.readline() == "locked\n"
    looks.stdin.write("\n")
    looks.stdin.flush()
    sink = SharedLabelsSink(SPEC, ["front"])
    sink.close()
    looks.communicate()
