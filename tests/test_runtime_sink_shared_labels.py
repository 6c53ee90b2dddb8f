"""Shared labels: exact in another process that has numpy only, INVALID when they must be, whoever dies or hangs."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pspnet.errors import PspnetError
from runtime import shared_labels
from runtime.record import no_signal
from runtime.shared_labels import LabelReader, read_labels
from runtime.sink_shared_labels import SharedLabelsSink
from tests.live_records import PATIENCE_S, SPEC, record_of, until

ROOT = Path(__file__).parents[1]
NAME = f"test{os.getpid()}"

PRODUCER = """
import sys, time
from runtime.sink_shared_labels import SharedLabelsSink
from tests.live_records import SPEC, record_of
with_age = record_of(41, size=(30, 40), camera=sys.argv[1], max_age_ms=float(sys.argv[2]))
sink = SharedLabelsSink(SPEC, [sys.argv[1]])
sink(with_age)
print("ready", flush=True)
time.sleep(600)
"""
CONSUMER = """
import sys
from runtime.shared_labels import LabelReader
heavy = {module.split(".")[0] for module in sys.modules} & {"cv2", "onnx", "numba", "pspnet", "torch", "scipy"}
with LabelReader(sys.argv[1]) as reader:
    found = reader.read()
    print(sorted(heavy), found.valid, found.sequence, found.labels.shape, int(found.labels.sum()), flush=True)
    sys.stdin.readline()
    found = reader.read()
    print(found.valid, found.labels, found.reason)
"""


@pytest.fixture
def sink() -> Iterator[SharedLabelsSink]:
    sink = SharedLabelsSink(SPEC, [NAME])
    yield sink
    sink.close()


@contextlib.contextmanager
def python(code: str, *arguments: str) -> Iterator[subprocess.Popen]:
    """A process that runs `code`, killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_another_process_reads_the_same_with_numpy_alone(sink: SharedLabelsSink) -> None:
    record = record_of(17, size=(33, 57), camera=NAME, max_age_ms=60_000)
    assert record.labels is not None
    sink(record)
    with python(CONSUMER, NAME) as consumer:
        assert consumer.stdout and consumer.stdin
        assert consumer.stdout.readline().strip() == f"[] True 17 (33, 57) {int(record.labels.sum())}"
        sink(record.invalidated("the camera is frozen", time.monotonic_ns()))
        consumer.stdin.write("\n")
        consumer.stdin.flush()
        assert consumer.stdout.readline().strip() == "False None the camera is frozen"
    found = read_labels(NAME)
    assert (found.number, found.sequence, found.captured_ns) == (2, 17, record.captured_ns)


def test_labels_and_stamps_are_exact(sink: SharedLabelsSink) -> None:
    generator = np.random.default_rng(0)
    with LabelReader(NAME) as reader:
        assert "nothing has been published" in reader.read().reason
        for sequence, size in enumerate([(20, 30), (1, 1), (480, 640), (20, 30)]):
            labels = generator.integers(0, 256, size, np.uint8)
            record = dataclasses.replace(record_of(sequence, size, NAME), labels=labels)
            if sequence and record.captured_ns is not None:
                record = dataclasses.replace(record, sensor_ns=record.captured_ns - 123)
            sink(record)
            found = reader.read()
            np.testing.assert_array_equal(found.labels, labels)
            stamps = (found.captured_ns, found.wall_ns, found.sensor_ns, found.published_ns)
            assert stamps == (record.captured_ns, record.wall_ns, record.sensor_ns, record.published_ns)
            assert (found.number, found.sequence, found.reason) == (sequence + 1, sequence, "")
        assert found.labels is not None
        kept = found.labels.copy()
        sink(record_of(9, (20, 30), NAME))
        np.testing.assert_array_equal(found.labels, kept)  # a consumer's copy is its own
        assert reader.classes()["class_names"] == list(SPEC.class_names) and reader.classes()["drivable"] == [0]


def test_a_larger_picture_gets_a_new_file_and_the_reader_follows(sink: SharedLabelsSink) -> None:
    with LabelReader(NAME) as reader:
        for sequence, size in enumerate([(100, 100), (1100, 1300), (100, 100)]):
            sink(record_of(sequence, size, NAME))
            found = reader.read()
            assert found.labels is not None and found.labels.shape == size and found.number == sequence + 1
    assert [path.name for path in shared_labels.FOLDER.glob(f"*{NAME}*")] == [f"pspnet-labels-{NAME}"]


def test_labels_become_invalid_with_age(sink: SharedLabelsSink) -> None:
    sink(record_of(0, camera=NAME, max_age_ms=200))
    until(lambda: not read_labels(NAME).valid)
    found = read_labels(NAME)
    assert found.labels is None and "at most 200 ms" in found.reason and (found.age_ms or 0) > 200
    sink(record_of(1, camera=NAME, max_age_ms=60_000))
    assert read_labels(NAME).valid
    time.sleep(0.01)
    assert not read_labels(NAME, max_age_ms=5).valid  # a consumer may ask for less
    sink(dataclasses.replace(record_of(2, camera=NAME), captured_ns=time.monotonic_ns() - 1_100_000_000))
    assert "at most 1000 ms" in read_labels(NAME).reason  # without a limit of the writer's there is one
    sink(dataclasses.replace(record_of(3, camera=NAME), sensor_ns=time.monotonic_ns() - 1_100_000_000))
    assert "at most 1000 ms" in read_labels(NAME).reason  # it came now, and was old already


def test_no_signal_is_told(sink: SharedLabelsSink) -> None:
    sink(no_signal(NAME, SPEC, "no picture yet"))
    found = read_labels(NAME)
    assert (found.valid, found.reason, found.captured_ns, found.age_ms) == (False, "no picture yet", None, None)
    sink(no_signal(NAME, SPEC, "é" * 1000))  # more than there is room for
    assert read_labels(NAME).reason.startswith("ééé")


def test_waiting_for_the_next_one(sink: SharedLabelsSink) -> None:
    sink(record_of(0, camera=NAME))
    with LabelReader(NAME) as reader:
        first = reader.read()
        again = reader.read(after=first.number, wait_s=0.02)
        assert not again.valid and again.labels is None and "no new label map" in again.reason
        timer = threading.Timer(0.05, lambda: sink(record_of(1, camera=NAME)))
        timer.start()
        assert reader.read(after=first.number, wait_s=PATIENCE_S).sequence == 1
        timer.join()


def test_stop_removes_the_file_and_tells_who_has_it_mapped() -> None:
    sink = SharedLabelsSink(SPEC, [NAME])
    sink(record_of(0, camera=NAME))
    mapped = np.memmap(shared_labels.path_of(NAME), np.int64, "r")  # a consumer in another language
    assert mapped[shared_labels.CLOSED_AT // 8] == 0 and mapped[shared_labels.NEWEST_AT // 8] == 1
    with LabelReader(NAME) as reader:
        assert reader.read().valid
        sink.close()
        assert not shared_labels.path_of(NAME).exists() and mapped[shared_labels.CLOSED_AT // 8] == 1
        found = reader.read()
        assert not found.valid and "nobody writes" in found.reason
        with writing_as(NAME) as second:  # a restart
            second(record_of(5, camera=NAME))
            assert reader.read().sequence == 5
    assert not read_labels(NAME).valid


@contextlib.contextmanager
def writing_as(name: str) -> Iterator[SharedLabelsSink]:
    """A sink, closed at the end."""
    sink = SharedLabelsSink(SPEC, [name])
    try:
        yield sink
    finally:
        sink.close()


def test_a_killed_writer_leaves_nothing_valid_and_can_be_followed_by_another() -> None:
    with python(PRODUCER, NAME, "300") as producer, LabelReader(NAME) as reader:
        assert producer.stdout and producer.stdout.readline() == "ready\n"
        assert reader.read().sequence == 41
        with pytest.raises(PspnetError, match="another process writes"):
            SharedLabelsSink(SPEC, [NAME])
        assert reader.read().sequence == 41
        producer.send_signal(signal.SIGKILL)
        producer.wait()
        assert shared_labels.path_of(NAME).exists()
        until(lambda: not reader.read().valid, "INVALID")
        until(lambda: "is gone" in reader.read().reason, "the reason")
        with writing_as(NAME) as second:
            second(record_of(1, camera=NAME))
            assert (reader.read().sequence, reader.read().valid) == (1, True)
    assert not list(shared_labels.FOLDER.glob(f"*{NAME}*"))


def test_a_stopped_or_dead_consumer_holds_up_nothing(sink: SharedLabelsSink) -> None:
    sink(record_of(0, camera=NAME, max_age_ms=60_000))
    with python(CONSUMER, NAME) as consumer:
        assert consumer.stdout
        consumer.stdout.readline()
        consumer.send_signal(signal.SIGSTOP)
        for sequence in range(50):
            sink(record_of(sequence, camera=NAME))
        assert read_labels(NAME).sequence == 49
        consumer.kill()
        consumer.wait()
        sink(record_of(50, camera=NAME))
        assert read_labels(NAME).sequence == 50


def test_what_is_read_is_never_torn(sink: SharedLabelsSink) -> None:
    size, stop = (200, 300), threading.Event()

    def write() -> None:
        sequence = 0
        while not stop.is_set():
            labels = np.full(size, sequence % 251, np.uint8)
            sink(dataclasses.replace(record_of(sequence, size, NAME), labels=labels))
            sequence += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        seen = set()
        with LabelReader(NAME) as reader:
            end = time.monotonic() + 1.0
            while time.monotonic() < end or len(seen) < 10:
                found = reader.read(wait_s=PATIENCE_S)
                if found.number == 0:
                    continue
                assert found.valid and found.labels is not None, found.reason
                assert (found.labels == found.sequence % 251).all()
                seen.add(found.number)
    finally:
        stop.set()
        thread.join()


def test_a_byte_that_does_not_belong_is_found(sink: SharedLabelsSink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_labels, "TRIES", 3)
    sink(record_of(0, camera=NAME))
    assert read_labels(NAME).valid
    with open(shared_labels.path_of(NAME), "r+b") as file:
        slot_bytes = int.from_bytes(file.read(16)[8:], "little")
        file.seek(shared_labels.HEADER_BYTES + slot_bytes + shared_labels.LABELS_AT + 1000)
        file.write(b"\x63")
    found = read_labels(NAME)
    assert not found.valid and "damaged" in found.reason
    sink(record_of(1, camera=NAME))
    assert read_labels(NAME).valid


def test_a_file_that_somebody_removed_comes_back(sink: SharedLabelsSink) -> None:
    sink(record_of(0, camera=NAME))
    shared_labels.path_of(NAME).unlink()
    assert not read_labels(NAME).valid
    sink(record_of(1, camera=NAME))
    assert read_labels(NAME).sequence == 1


def test_no_room_is_told_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        monkeypatch.setattr(shared_labels, "FOLDER", tmp_path)
        with pytest.raises(PspnetError, match=r"No space left on device.*--shm-size"):
            SharedLabelsSink(SPEC, [NAME])
        assert not list(tmp_path.iterdir())
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_what_cannot_be_a_name_is_refused() -> None:
    with pytest.raises(PspnetError, match="a name has"):
        SharedLabelsSink(SPEC, ["../etc/passwd"])
    with pytest.raises(PspnetError, match="64 KiB"):
        SharedLabelsSink(dataclasses.replace(SPEC, class_names=("a", "b", "c" * 70_000)), [NAME])
    shared = SharedLabelsSink(SPEC, [NAME], prefix="drive-", mode=0o644)
    assert shared_labels.path_of(f"drive-{NAME}").stat().st_mode & 0o777 == 0o644
    shared.close()


def test_a_reader_in_a_loop_waits_where_nobody_writes_and_gets_the_first_label_map() -> None:
    name = f"{NAME}-late"
    with LabelReader(name) as reader:
        began = time.monotonic()
        found = reader.read(after=0, wait_s=0.3)
        assert not found.valid and found.number == 0 and time.monotonic() - began >= 0.3
        assert reader.read().number == 0  # without wait_s at once
        late = SharedLabelsSink(SPEC, [name])
        try:
            late(record_of(5, camera=name, max_age_ms=60_000))
            assert reader.read(after=0, wait_s=PATIENCE_S).sequence == 5
        finally:
            late.close()
