"""V4L2 captures: OpenCV's own code against a camera that a preloaded C library plays; stable ids on a made-up /dev."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from runtime import capture_v4l2
from runtime.camera_uri import CameraUri, camera_uri

ROOT = Path(__file__).parents[1]
SCRIPT = """
import dataclasses, json, sys, time
from runtime.camera_uri import camera_uri
from runtime.capture import open_capture
uri = dataclasses.replace(camera_uri("v4l2:///dev/double" + sys.argv[2]), address=sys.argv[1])
out = {"pictures": []}
began = time.monotonic()
try:
    capture = open_capture(uri, 1.5)
    out["decoder"] = capture.decoder
    while len(out["pictures"]) < 8:
        try:
            began = time.monotonic()
            picture = capture.read(0.4)
        except Exception as error:
            out.setdefault("causes", []).append(error.cause)
            out.setdefault("seconds", []).append(time.monotonic() - began)
            if len(out["causes"]) > 1:
                raise
            continue
        age = None if picture.sensor_ns is None else (time.monotonic_ns() - picture.sensor_ns) / 1e6
        out["pictures"].append([list(picture.image.shape), picture.format, picture.matrix, picture.full_range, age,
                                int(picture.image.ravel()[0]), float(picture.image.mean())])
except Exception as error:
    out["error"], out["cause"], out["waited"] = str(error), error.cause, time.monotonic() - began
print(json.dumps(out))
"""
AGE_MS = 1000.0  # of a picture given the moment it is taken, on a loaded machine
Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def double_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not sys.platform.startswith("linux") or not shutil.which("gcc"):
        pytest.skip("the double of a V4L2 camera needs Linux and gcc")
    target = tmp_path_factory.mktemp("v4l2") / "double.so"
    source = Path(__file__).parent / "v4l2_double.c"
    built = subprocess.run(["gcc", "-shared", "-fPIC", "-o", target, source, "-ldl"], capture_output=True, text=True)
    if "linux/videodev2.h" in built.stderr:
        pytest.skip("the double of a V4L2 camera needs the kernel's headers: apt-get install linux-libc-dev")
    assert built.returncode == 0, built.stderr
    return target


@pytest.fixture
def run(double_library: Path, tmp_path: Path) -> Run:
    device = tmp_path / "video0"
    device.touch()

    def run_it(query: str = "", formats: str = "YUYVUYVYNV12MJPG", **settings: object) -> dict[str, Any]:
        environment = {
            **os.environ, "LD_PRELOAD": str(double_library), "V4L2_DOUBLE": str(device), "PYTHONPATH": str(ROOT),
            "V4L2_DOUBLE_FORMATS": formats, **{f"V4L2_DOUBLE_{name}": str(value) for name, value in settings.items()},
        }  # fmt: skip
        command = [sys.executable, "-c", SCRIPT, str(device), query]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run_it


@pytest.mark.parametrize(("layout", "shape"), [("yuyv", [96, 128, 2]), ("uyvy", [96, 128, 2]), ("nv12", [144, 128])])
def test_raw_pictures_are_handed_over_as_the_camera_has_them(run: Run, layout: str, shape: list[int]) -> None:
    out = run(f"?width=128&height=96&format={layout}")
    assert out["decoder"] == "none (raw)"
    numbers = [picture[5] for picture in out["pictures"]]
    assert numbers == sorted(numbers) and numbers[0] >= 1 and len(set(numbers)) == 8
    for got_shape, got_layout, matrix, full_range, age_ms, _, _ in out["pictures"]:
        assert (got_shape, got_layout, matrix, full_range) == (shape, layout, "709", False)
        assert 0 <= age_ms < AGE_MS


def test_address_states_matrix_and_range_over_the_driver(run: Run) -> None:
    out = run("?format=yuyv&matrix=601&range=full")
    assert {tuple(picture[2:4]) for picture in out["pictures"]} == {("601", True)}


def test_stamps_of_another_clock_are_none(run: Run) -> None:
    assert {picture[4] for picture in run("?format=yuyv", CLOCK="realtime")["pictures"]} == {None}


def test_mjpg_is_decoded_here_and_a_cut_picture_is_corrupt(run: Run, tmp_path: Path) -> None:
    grey = np.full((96, 128, 3), 77, np.uint8)
    cv2.imwrite(str(tmp_path / "grey.jpg"), grey)
    out = run("?width=128&height=96&format=mjpg", JPEG=tmp_path / "grey.jpg", CUT=3)
    assert out["decoder"] == "OpenCV JPEG (software)"
    assert 1 <= len(out["pictures"]) <= 3 and out["causes"] == ["corrupt", "corrupt"]
    for shape, layout, _, _, _, _, mean in out["pictures"]:
        assert (shape, layout) == ([96, 128, 3], "bgr") and abs(mean - 77) < 2


def test_stall_is_a_timeout_within_the_deadline(run: Run) -> None:
    out = run("?format=yuyv", STALL=3)
    assert out["causes"] == ["timeout", "timeout"] and 1 <= len(out["pictures"]) <= 3
    assert all(0.35 < seconds < 2 for seconds in out["seconds"])


def test_unplugging_is_a_disconnection_at_once(run: Run) -> None:
    out = run("?format=yuyv", GONE=3)
    assert out["causes"][0] == "disconnected" and out["seconds"][0] < 2
    assert "check its cable" in out["error"]


def test_camera_that_never_starts_ends_by_the_deadline_of_opening(run: Run) -> None:
    out = run("?format=yuyv", STALL=0)
    assert (out["cause"], out["pictures"]) == ("timeout", []) and 1.4 < out["waited"] < 8


def test_device_that_fails_to_stream_is_refused_with_advice(run: Run) -> None:
    out = run("?format=yuyv", GONE=0)
    assert out["cause"] == "refused" and "fuser" in out["error"]


def test_mode_that_the_camera_has_not_is_a_codec_error(run: Run) -> None:
    out = run("?format=mjpg", formats="YUYV")
    assert out["cause"] == "codec" and "delivers format yuyv where mjpg was asked" in out["error"]


def test_absent_device_names_what_is_there() -> None:
    with pytest.raises(capture_v4l2.CaptureRefused, match="does not exist; video devices here") as caught:
        capture_v4l2.open_v4l2(camera_uri("v4l2:///dev/video987"), 1)
    assert caught.value.cause == "no_device"


class FakeDev:
    """A /dev and /sys with cameras in them."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        for name in ("dev/v4l/by-id", "dev/v4l/by-path", "sys"):
            (root / name).mkdir(parents=True)
        monkeypatch.setattr(capture_v4l2, "BY_ID", root / "dev/v4l/by-id")
        monkeypatch.setattr(capture_v4l2, "BY_PATH", root / "dev/v4l/by-path")
        monkeypatch.setattr(capture_v4l2, "CLASS", root / "sys")

    def plug(self, number: int, socket: str, serial: str, model: str = "HD") -> CameraUri:
        device = self.root / f"dev/video{number}"
        device.touch()
        (self.root / f"sys/video{number}").mkdir()
        (self.root / f"sys/video{number}/name").write_text(f"{model}\n")
        (self.root / f"sys/video{number}/index").write_text("0\n")
        for folder, name in (("by-id", f"usb-{model}{serial}-index0"), ("by-path", f"{socket}-index0")):
            link = self.root / "dev/v4l" / folder / name
            link.unlink(missing_ok=True)
            link.symlink_to(device)
        return CameraUri("v4l2", str(device))

    def unplug(self, number: int) -> None:
        (self.root / f"dev/video{number}").unlink()
        shutil.rmtree(self.root / f"sys/video{number}")


def test_camera_is_found_again_under_another_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dev = FakeDev(tmp_path, monkeypatch)
    stable = capture_v4l2.stable_uri(dev.plug(0, "usb-1", "_A1"))
    assert stable.address.endswith("by-id/usb-HD_A1-index0")
    dev.unplug(0)
    assert not Path(stable.address).exists()
    dev.plug(3, "usb-2", "_A1")
    assert Path(stable.address).resolve().name == "video3"
    assert capture_v4l2.stable_uri(stable) == stable


def test_twins_are_told_apart_by_their_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dev = FakeDev(tmp_path, monkeypatch)
    left, right = dev.plug(0, "usb-1", ""), dev.plug(2, "usb-2", "")
    assert [Path(capture_v4l2.stable_uri(uri).address).parent.name for uri in (left, right)] == ["by-path"] * 2
    assert Path(capture_v4l2.stable_uri(left).address).resolve().name == "video0"


def test_device_without_ids_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeDev(tmp_path, monkeypatch)
    (tmp_path / "dev/video9").touch()
    for uri in (CameraUri("v4l2", str(tmp_path / "dev/video9")), CameraUri("v4l2", str(tmp_path / "dev/absent"))):
        assert capture_v4l2.stable_uri(uri) is uri


@pytest.mark.parametrize(
    ("space", "encoding", "quantisation", "expected"),
    # Colour space sRGB is 8, REC709 3, JPEG 7; encoding 601 is 1, 709 is 2; full range is 1, limited 2; 0 is default.
    [
        (8, 0, 0, ("601", False)), (3, 0, 0, ("709", False)), (7, 0, 0, ("601", True)), (8, 2, 1, ("709", True)),
        (7, 0, 2, ("601", False)),
    ],
)  # fmt: skip
def test_colour_follows_the_kernels_defaults(
    space: int, encoding: int, quantisation: int, expected: tuple[str, bool]
) -> None:
    block = struct.pack("2I", 1, 0) + struct.pack(
        "12I", 64, 48, 0, 1, 128, 6144, space, 0, 0, encoding, quantisation, 0
    )
    assert capture_v4l2.colour_from_format(block.ljust(208, b"\0")) == expected


def test_opening_looks_for_the_stable_id_of_a_device_that_it_found_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dev = FakeDev(tmp_path, monkeypatch)
    monkeypatch.setattr(capture_v4l2, "_stable", {})
    looked_for: list[str] = []

    def refuse(uri: str, device: Path, *_: object) -> None:
        looked_for.append(device.resolve().name)
        raise capture_v4l2.CaptureRefused("busy")

    monkeypatch.setattr(capture_v4l2.v4l2, "open_device", refuse)
    uri = dev.plug(0, "usb-1", "_A1")
    for step in (lambda: None, lambda: dev.unplug(0), lambda: dev.plug(3, "usb-2", "_A1")):
        step()
        with pytest.raises(capture_v4l2.CaptureRefused):
            capture_v4l2.open_v4l2(uri, 1)
    assert looked_for == ["video0", "video0", "video3"]
