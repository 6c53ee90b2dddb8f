"""How runs over cameras end when nobody asked them to, and what the next run finds: in processes of their own."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest

from pspnet.cli import main
from tests.nets import ROOT
from tests.test_pspnet_live_commands import EXIT_S, SLACK_S, await_line, await_valid_record, start

CAMERA = "test://pattern?size=96x128&fps=20"
ON_TERMINAL = """
import fcntl, os, signal, sys, termios
signal.signal(signal.SIGHUP, signal.SIG_DFL)
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from tests.live_doubles import FakeRunner
import runtime.drive as drive
drive.open_runner, drive.check_artefact = lambda *_: FakeRunner(), lambda path, engine: None
from pspnet.cli import main
sys.exit(main({arguments!r}))
"""
SLOW_IMPORT = """
import importlib.abc, signal, sys, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)
class Slow(importlib.abc.MetaPathFinder):
    def find_spec(self, name, *_):
        if name == "runtime.drive":
            print("importing", file=sys.stderr, flush=True)
            time.sleep(60)
sys.meta_path.insert(0, Slow())
from pspnet.cli import main
sys.exit(main({arguments!r}))
"""


def run_of(code: str, *arguments: object, **options: object) -> subprocess.Popen:
    """A program that calls the command line with `pspnet run model.onnx` and these arguments."""
    words = ["run", "model.onnx", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", code.format(arguments=words)], cwd=ROOT, env=environment,
        **options,  # type: ignore[call-overload]
    )  # fmt: skip


def test_a_connection_that_breaks_ends_the_run_in_order(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    label = f"h{os.getpid()}"
    outputs = ["--jsonl", tmp_path / "x.jsonl", "--json", tmp_path / "x.json", "--video", tmp_path / "video"]
    program = run_of(
        ON_TERMINAL, CAMERA, *outputs, "--shared-labels", label, stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    try:
        await_valid_record(tmp_path / "x.jsonl")
        time.sleep(0.5)
        assert list(Path("/dev/shm").glob(f"*{label}*")) and list((tmp_path / "video").glob("*.partial.webm"))
        sent_s = time.monotonic()
        os.close(ours)  # the kernel sends SIGHUP, and nothing can be printed any more
        assert program.wait(30) == 129 and time.monotonic() - sent_s < EXIT_S + SLACK_S
    finally:
        program.kill()
        program.wait()
    for line in (tmp_path / "x.jsonl").read_text().splitlines():
        json.loads(line)
    assert json.loads((tmp_path / "x.json").read_text())["cameras"]["camera0"]["valid"] > 0
    [video] = (tmp_path / "video").iterdir()
    assert "partial" not in video.name and cv2.VideoCapture(str(video), cv2.CAP_FFMPEG).read()[0]
    assert not list(Path("/dev/shm").glob(f"*{label}*"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGHUP, 129)])
def test_a_signal_while_the_program_is_imported(number: int, code: int, tmp_path: Path) -> None:
    program = run_of(SLOW_IMPORT, CAMERA, "--jsonl", tmp_path / "x.jsonl", stderr=subprocess.PIPE, text=True)
    try:
        assert program.stderr is not None
        await_line(program.stderr, "importing")
        program.send_signal(number)
        assert program.communicate(timeout=30) == (None, "") and program.returncode == code
    finally:
        program.kill()
    assert list(tmp_path.iterdir()) == []


def test_a_second_run_on_the_same_lines_is_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    lines, video = tmp_path / "x.jsonl", tmp_path / "video"
    first = start(CAMERA, "--jsonl", lines, "--video", video)
    try:
        await_valid_record(lines)
        second = start(CAMERA, "--jsonl", lines, "--seconds", 20)
        printed, said = second.communicate(timeout=60)
        assert second.returncode == 2 and printed == ""
        assert said == f"pspnet: another run writes {lines}: stop it, or give this one a place of its own\n"
        end_s = time.monotonic() + 30
        while not any(part.stat().st_size for part in video.glob("*.partial.webm")):
            assert time.monotonic() < end_s
            time.sleep(0.05)
        time.sleep(0.5)
    finally:
        first.kill()
        first.communicate()
    [partial] = video.iterdir()
    with open(lines, "a") as file:
        file.write('{"camera": "cam')  # the kill came in the middle of a line
    third = start(CAMERA, "--jsonl", lines, "--video", video, "--seconds", 2)
    _, said = third.communicate(timeout=60)
    assert third.returncode == 0, said
    assert not partial.exists() and not list(video.glob("*.partial.webm"))
    cut = partial.with_name(partial.name.replace(".partial.", ".cut."))
    assert cut.exists() == (f"a run that was killed left {cut.name}" in said)
    halves = [line for line in lines.read_text().splitlines() if not line.endswith("}")]
    assert halves == ['{"camera": "cam'] and json.loads(lines.read_text().splitlines()[-1])["camera"] == "camera0"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "test://nosuch.mp4",
            "camera camera0: test://nosuch.mp4: nosuch.mp4 does not exist in {folder}, the folder that",
        ),
        ("clip:///nonexist.mp4", "camera camera0: clip:///nonexist.mp4: /nonexist.mp4 does not exist. Give a clip"),
        ("clip://.", "clip://.: . is no file in {folder}"),
    ],
)
def test_a_clip_that_does_not_exist_is_refused(
    source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "m.onnx", source, "--jsonl", "x.jsonl"]) == 2
    said = capsys.readouterr().err
    assert message.format(folder=tmp_path) in said and said.count("\n") == 1 and list(tmp_path.iterdir()) == []
    (tmp_path / "deep").mkdir()
    config = tmp_path / "deep" / "drive.toml"
    config.write_text(
        f'[model]\nartefact = "m.onnx"\n[[camera]]\nname = "camera0"\nurl = "{source}"\n[output]\njsonl = "x.jsonl"\n'
    )
    assert main(["run", "--config", str(config), "--check"]) == 2
    said = capsys.readouterr().err
    assert message.format(folder=tmp_path) in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("source", "address"),
    [
        ("/dev/video987", "v4l2:///dev/video987"), ("0", "v4l2:///dev/video0"), ("test:pattern", "test://pattern"),
        ("v4l2:/dev/video0", "v4l2:///dev/video0"), ("rtsp:/me:s3cret@cam/x", "rtsp://***@cam/x"), ("CSI:0", "csi://0"),
        ("/dev/v4l/by-id/usb-x", "v4l2:///dev/v4l/by-id/usb-x"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("more", [["--seconds", "1"], ["--realtime"], ["test://pattern"], []])
def test_what_is_almost_a_camera_is_told_how_to_give_it(
    source: str, address: str, more: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["run", "m.onnx", source, *more, "--jsonl", "x.jsonl"]) == 2
    said = capsys.readouterr().err
    assert said.rstrip().endswith(address) and said.count("\n") == 1 and "s3cret" not in said


@pytest.mark.parametrize(
    "more", [["--window"], ["--jsonl", "x.jsonl"], ["--list", "l.txt", "-o", "out"], ["photo.png"]]
)
@pytest.mark.parametrize("alpha", ["3", "-0.1", "nan"])
def test_alpha_is_checked_whatever_uses_it(alpha: str, more: list[str], capsys: pytest.CaptureFixture) -> None:
    source = [] if "--list" in more or "photo.png" in more else ["test://pattern"]
    assert main(["run", "m.onnx", *source, *more, "--alpha", alpha]) == 2
    assert f"alpha is {float(alpha):g}: it must be 0 (picture) to 1" in capsys.readouterr().err
