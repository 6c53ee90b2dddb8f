"""Pictures through shared memory: whole, newest first, and never written while they are lent."""

from __future__ import annotations

import gc
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pspnet.errors import PspnetError
from runtime import frame_ring
from runtime.camera_memory import CameraMemory
from runtime.frame_ring import Channel, Ring, Token, Writer

SHAPE = (40, 64, 3)
AGELESS_NS = 10**18
WRITER = """
import sys, numpy as np
from runtime.frame_ring import Channel, Ring, Token, Writer
ends, ring = eval(sys.argv[1]), eval(sys.argv[2])
writer = Writer(Channel(ends[:2], ends[2:]))
writer.use(Ring(*ring), eval(sys.argv[3]))
sequence = int(sys.argv[4])
while True:
    slot, _ = writer.slot()
    if slot is not None:
        writer.ring.picture(slot, {shape})[:] = sequence % 251
        writer.publish(Token(ring[0], slot, sequence, 1, None, {shape}, "bgr", "601", False))
    sequence += 1
"""


def token(slot: int, sequence: int, ring: int = 1) -> Token:
    return Token(ring, slot, sequence, 5, None, SHAPE, "bgr", "601", False)


@pytest.fixture
def memory() -> Iterator[CameraMemory]:
    memory = CameraMemory("front", 4)
    yield memory
    memory.close()


@pytest.fixture
def writer(memory: CameraMemory) -> Writer:
    """A writer in this process, with the memory's ring for pictures of SHAPE."""
    ring = memory.reserve(int(np.prod(SHAPE)))
    ends = memory.descriptors
    writer = Writer(Channel(ends[:2], ends[2:]))
    writer.use(Ring(ring.number, os.dup(ring.descriptor), ring.slot_bytes, ring.slots), list(range(ring.slots)))
    return writer


def write(writer: Writer, sequence: int) -> tuple[int | None, int]:
    """(slot, waiting pictures that were dropped) of one picture, all of whose values are its number."""
    slot, dropped = writer.slot()
    if slot is None:
        return None, dropped
    assert writer.ring is not None
    writer.ring.picture(slot, SHAPE)[:] = sequence
    return slot, dropped + writer.publish(token(slot, sequence, writer.ring.number))


def test_the_newest_wins_and_the_others_are_counted(memory: CameraMemory, writer: Writer) -> None:
    dropped = sum(write(writer, sequence)[1] for sequence in range(7))
    taken = memory.take(0, AGELESS_NS)
    assert taken is not None and dropped == 6
    image, about = taken
    assert about.sequence == 6 and (image == 6).all() and image.shape == SHAPE and not image.flags.writeable
    assert memory.take(0, AGELESS_NS) is None


def test_lent_pictures_stay_as_they_are_until_they_are_released(memory: CameraMemory, writer: Writer) -> None:
    lent = []
    for sequence in range(3):
        write(writer, sequence)
        taken = memory.take(0, AGELESS_NS)
        assert taken is not None
        lent.append(taken)
    slots = {about.slot for _, about in lent}
    assert len(slots) == 3
    last = {write(writer, sequence)[0] for sequence in range(3, 20)}
    assert last == set(range(4)) - slots
    assert [int(image[0, 0, 0]) for image, _ in lent] == [0, 1, 2]
    fourth = memory.take(0, AGELESS_NS)
    assert fourth is not None and write(writer, 20) == (None, 0)  # all are lent
    memory.release(1)
    memory.release(1)
    assert write(writer, 21)[0] == lent[1][1].slot and write(writer, 22)[1] == 1


def test_a_picture_that_is_too_old_is_not_handed_out(memory: CameraMemory, writer: Writer) -> None:
    write(writer, 0)
    assert memory.take(now_ns=5 + 101, max_age_ns=100) is None
    assert memory.drops()["stale"] == 1
    for sequence in range(1, 5):  # its slot came back: all four can be lent
        assert write(writer, sequence)[0] is not None and memory.take(0, AGELESS_NS) is not None


def test_the_sensor_stamp_says_how_old_a_picture_is(memory: CameraMemory, writer: Writer) -> None:
    for sensor_ns, expected in ((1000, False), (1900, True)):
        slot, _ = writer.slot()
        assert slot is not None
        writer.publish(Token(1, slot, 0, 2000, sensor_ns, SHAPE, "bgr", "601", False))
        assert (memory.take(2010, 500) is not None) == expected


def test_a_new_worker_gets_what_is_not_lent(memory: CameraMemory, writer: Writer) -> None:
    write(writer, 0)
    taken = memory.take(0, AGELESS_NS)
    write(writer, 1)
    handed = memory.handover()
    assert taken is not None and handed is not None
    assert handed[1] == [slot for slot in range(4) if slot != taken[1].slot]
    assert memory.take(0, AGELESS_NS) is None and memory.drops()["restart"] == 1


def test_a_larger_ring_replaces_the_old_which_ends_with_its_last_picture() -> None:
    memory = CameraMemory("resize", 3)
    small = memory.reserve(1000)
    picture = small.picture(0, (10, 10))
    large = memory.reserve(1_000_000)
    assert len(memory.buffers()) == 2
    assert memory.retire(large.number) and not memory.retire(large.number)
    assert [len(data) for data in memory.buffers()] == [3 * large.slot_bytes]
    del small, large
    assert mappings("resize") == 3  # gauges, the new ring, and the old one, which a picture still shows
    del picture
    memory.close()
    gc.collect()
    assert mappings("resize") == 1  # the gauges of `memory` itself
    del memory
    gc.collect()
    assert mappings("resize") == 0


def mappings(name: str) -> int:
    return Path("/proc/self/maps").read_text().count(f"memfd:pspnet-{name}")


def test_rings_and_slots_begin_at_pages(memory: CameraMemory) -> None:
    ring = memory.reserve(5000)
    page = os.sysconf("SC_PAGESIZE")
    addresses = [ring.picture(slot, (5, 1000)).ctypes.data for slot in range(4)]
    assert all(address % page == 0 for address in addresses) and ring.data.ctypes.data == addresses[0]


def test_memory_that_is_not_to_be_had_is_refused_with_the_bytes(
    memory: CameraMemory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(PspnetError, match=r"camera front: 8\.0 MiB of shared memory are needed"):
            memory.reserve(2 << 20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with pytest.raises(PspnetError, match="a picture of 300 MiB is more than the 256 MiB"):
        memory.reserve(300 << 20)
    (tmp_path / "memory.max").write_text("50000000\n")
    (tmp_path / "memory.current").write_text("48000000\n")
    (tmp_path / "memory.stat").write_text("anon 3\ninactive_file 1000000\n")
    monkeypatch.setattr(frame_ring, "CGROUP", tmp_path)
    with pytest.raises(PspnetError, match=r"are needed .* \(2\.9 MiB are free\)"):
        memory.reserve(2 << 20)


def test_tokens_survive_the_mailbox_and_nonsense_does_not(memory: CameraMemory) -> None:
    channel = Channel.open()
    for about in (
        Token(3, 2, 2**40, 2**60, 2**59, (1080, 1920, 2), "uyvy", "709", True),
        Token(1, 0, 0, 1, None, (1620, 1920), "nv12", "601", False),
        Token(1, 0, 0, 1, 0, (4, 4), "grey", "601", False),
    ):
        channel.put(about)
        assert channel.take() == about
    channel.close()
    sound = token(0, 1).packed()
    for wrong in (sound[:-1], b"\xff" * len(sound), sound.replace(b"\x40\0\0\0\3", b"\x40\0\0\0\7")):
        with pytest.raises(ValueError):
            Token.unpacked(wrong)


@pytest.mark.parametrize(
    "about",
    [token(4, 1), token(0, 1, ring=9), Token(1, 0, 0, 1, None, (9999, 9999, 3), "bgr", "601", False)],
    ids=["slot", "ring", "size"],
)
def test_a_token_that_points_elsewhere_is_not_followed(memory: CameraMemory, writer: Writer, about: Token) -> None:
    writer.publish(about)
    assert memory.take(0, AGELESS_NS) is None and memory.drops()["corrupt"] == 1


def test_a_writer_that_is_stopped_or_killed_at_any_moment_blocks_nobody_and_tears_nothing() -> None:
    """A process writes as fast as it can; it is stopped and killed by chance, and each time another takes its place."""
    memory = CameraMemory("killed", 4)
    memory.reserve(int(np.prod(SHAPE)))
    chance = np.random.default_rng(0)
    code, sequence, taken, slowest_s = WRITER.format(shape=SHAPE), 0, 0, 0.0
    held: list[tuple[np.ndarray, Token]] = []
    for _ in range(6):
        handed = memory.handover()
        assert handed is not None
        ring, free = handed
        about = repr((ring.number, ring.descriptor, ring.slot_bytes, ring.slots))
        process = subprocess.Popen(
            [sys.executable, "-c", code, repr(memory.descriptors), about, repr(free), str(sequence)],
            pass_fds=(*memory.descriptors, ring.descriptor), cwd=Path(__file__).parents[1],
        )  # fmt: skip
        end, stopped = time.monotonic() + 20, 0
        goal = taken + int(chance.integers(50, 200))
        while taken < goal and time.monotonic() < end:
            if taken % 40 == 20 and stopped < 5:  # a stopped writer may be anywhere between two instructions
                stopped += 1
                process.send_signal(signal.SIGSTOP)
            asked = time.monotonic()
            found = memory.take(0, AGELESS_NS)
            slowest_s = max(slowest_s, time.monotonic() - asked)
            process.send_signal(signal.SIGCONT)
            if found is None:
                select.select([memory.wakeup], [], [], 0.01)
                continue
            taken, sequence = taken + 1, found[1].sequence + 1
            held.append(found)
            if len(held) > 2:
                image, announced = held.pop(int(chance.integers(len(held))))
                assert (image == announced.sequence % 251).all()
                memory.release(announced.sequence)
        assert taken >= goal
        process.kill()
        process.wait()
    assert slowest_s < 1.0  # it never waits; this is room for a loaded machine
    assert all((image == about.sequence % 251).all() for image, about in held)
    memory.close()
