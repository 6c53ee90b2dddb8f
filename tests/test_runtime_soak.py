"""Soak: what grows is seen, what recovers is counted, and a short run of the real thing is clean."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pspnet.cli import main
from runtime import soak
from runtime.camera_state import CameraState
from runtime.camera_status import CameraEvent
from runtime.camera_uri import camera_uri
from runtime.soak import SoakSettings, camera_settings, measured, outages_s, text_of

S = 10**9


def samples(values: list[float], name: str = "rss_mib") -> soak.Samples:
    found = soak.Samples()
    found.values[name] = values
    return found


def test_growth_is_the_last_eighth_against_the_second() -> None:
    assert samples([50.0] * 8 + [100.0] * 56).growth() == {"rss_mib": 0.0}  # the first eighth warms up
    assert samples([100.0 + step for step in range(64)]).growth() == {"rss_mib": 48.0}
    assert samples([100.0] * 60 + [500.0, 100.0, 100.0, 100.0]).growth() == {"rss_mib": 0.0}  # a peak is no growth
    assert samples([1.0] * 7).growth() == {}


def test_what_grows_too_much_is_named() -> None:
    bounds = soak.BOUNDS
    assert soak._exceeded(bounds, 0) == []
    said = soak._exceeded({**bounds, "threads": bounds["threads"] + 1}, 2)
    assert len(said) == 2 and "threads grew by" in said[0] and "2 records were published as valid" in said[1]


def test_leaks_are_measured() -> None:
    before = measured()
    kept = [os.open("/dev/null", os.O_RDONLY) for _ in range(5)]
    waiting = threading.Event()
    thread = threading.Thread(target=waiting.wait)
    thread.start()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    memory = os.memfd_create("pspnet-test")
    os.posix_fallocate(memory, 0, 3 << 20)
    mapped = mmap.mmap(memory, 3 << 20)
    mapped[:: mmap.PAGESIZE] = b"x" * (len(mapped) // mmap.PAGESIZE)
    # Not the allocator's: it may have room of its own for 32 MiB, and gives back what was freed when it likes.
    ballast = mmap.mmap(-1, 32 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    ballast[:: mmap.PAGESIZE] = b"x" * (len(ballast) // mmap.PAGESIZE)
    after = measured()
    gained = {name: after[name] - before[name] for name in before}
    mapped.close()
    ballast.close()
    waiting.set()
    thread.join()
    child.communicate(b"\n")
    for descriptor in (memory, *kept):
        os.close(descriptor)
    assert (gained["threads"], gained["processes"], gained["shared_mib"]) == (1, 1, 3)
    assert gained["descriptors"] >= 6 and 30 < gained["rss_mib"] < 60


def event(camera: str, state: str, at_s: float) -> CameraEvent:
    return CameraEvent(camera, "state", int(at_s * S), CameraState(state))


def test_outages_are_from_running_to_running() -> None:
    events = [
        event("a", "connecting", 0), event("a", "running", 1), event("a", "stalled", 5), event("b", "running", 5.5),
        event("a", "backoff", 6), event("a", "connecting", 7), event("a", "running", 8), event("a", "frozen", 10),
    ]  # fmt: skip
    assert outages_s(events, "a") == ([3.0], True)
    assert outages_s([*events, event("a", "running", 11)], "a") == ([3.0, 1.0], False)
    assert outages_s([*events[:2], event("a", "stopped", 9)], "a") == ([], False)
    assert outages_s(events, "b") == ([], False)


def test_cameras_are_repeatable_and_the_first_never_fails() -> None:
    first, *others = camera_settings(SoakSettings(cameras=3, seed=7))
    assert "script" not in first.uri
    assert camera_settings(SoakSettings(cameras=3, seed=7))[1:] == others
    assert camera_settings(SoakSettings(cameras=3, seed=8))[1:] != others
    for camera in others:
        assert camera_uri(camera.uri).options["script"].count("ok ") > 10
        assert "end" not in camera.uri.replace("; ", " ").split()  # an ended camera would not be tested any more


def test_a_short_soak_is_clean(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    report_path = tmp_path / "soak.json"
    assert main(["soak", "--minutes", "0.15", "--cameras", "2", "--seed", "1", "--json", str(report_path)]) == 0
    report = json.loads(report_path.read_text())
    assert report["kind"] == "soak" and report["machine"]["cores"] and report["command"].startswith("pspnet ")
    assert report["exceeded"] == [] and report["published_stale"] == 0
    assert set(report["growth"]) == set(report["bounds"])
    assert report["cameras"]["camera0"]["valid"] > 0 and report["cameras"]["camera0"]["crashes"] == 0
    assert set(report["cameras"]["camera0"]["age_ms"]) >= {"p50", "p90", "p99"}
    assert text_of(report) in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["--minutes", "0"], ["--minutes", "nan"], ["--cameras", "0"], ["--cameras", "17"]]
)
def test_odd_settings_are_refused(arguments: list[str], capsys: pytest.CaptureFixture) -> None:
    assert main(["soak", *arguments]) == 2
    assert "give --" in capsys.readouterr().err
