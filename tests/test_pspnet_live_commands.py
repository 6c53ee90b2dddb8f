"""`pspnet run` over cameras, whole, in processes of its own: outputs, signals in every state, refusals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO

import cv2
import numpy as np
import pytest

from pspnet.cli import main
from tests.nets import ROOT

PROGRAM = """
import sys, time
import runtime.drive as drive
from tests.live_doubles import FakeRunner
def opened(*arguments):
    print("loading", file=sys.stderr, flush=True)
    time.sleep({load_s})
    runner = FakeRunner()
    calls = []
    def infer():
        calls.append(1)
        time.sleep({infer_s})
        if len(calls) == {dies_at}:
            raise MemoryError
    runner.before_infer = infer
    return runner
drive.open_runner, drive.check_artefact = opened, lambda path, engine: None
from pspnet.cli import main
sys.exit(main({arguments!r}))
"""
EXIT_S = 2.0  # the contract, from the signal to the end of the process
SLACK_S = 3.0  # a loaded machine may not run us when it should


def start(*arguments: object, load_s: float = 0.0, infer_s: float = 0.005, dies_at: int = -1) -> subprocess.Popen:
    """`pspnet run` with an engine that takes `load_s` to load and `infer_s` for a picture, or fails at one."""
    words = ["run", "model.onnx", *map(str, arguments)]
    code = PROGRAM.format(load_s=load_s, infer_s=infer_s, dies_at=dies_at, arguments=words)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=environment,
    )  # fmt: skip


def await_line(stream: IO[str], text: str) -> None:
    """Read until a line holds `text`."""
    for line in stream:
        if text in line:
            return
    raise AssertionError(f"the program ended without saying {text!r}")


def await_valid_record(lines: Path) -> None:
    """Read JSON lines until one is of labels."""
    deadline_s = time.monotonic() + 20
    while not (lines.exists() and '"valid": true' in lines.read_text().replace('":t', '": t')):
        assert time.monotonic() < deadline_s, "no valid record was written"
        time.sleep(0.05)


def descendants(pid: int) -> list[int]:
    """Processes that this one started, and those that these started."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout.split("\n")
    pairs = [tuple(map(int, line.split())) for line in listed if line.strip()]
    found, waiting = [], [pid]
    while waiting:
        parent = waiting.pop()
        children = [child for child, its in pairs if its == parent]
        found += children
        waiting += children
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


STATES = {
    "loading": ("test://pattern?size=96x128", "loading", 60.0),
    "running": ("test://pattern?size=96x128", "camera0 is running", 0.0),
    "connecting": ("test://pattern?size=96x128&script=ok 500ms; refuse 60s timeout", "camera0 is connecting", 0.0),
    "back-off": ("test://pattern?size=96x128&script=refuse 10000", "camera0 is backoff", 0.0),
    "hanging": ("test://pattern?size=96x128&script=ok 500ms; deaf", "camera0 is stalled", 0.0),
}


@pytest.mark.parametrize("state", STATES)
def test_a_signal_ends_the_run_in_every_state(state: str, tmp_path: Path) -> None:
    address, said, load_s = STATES[state]
    number, code = (signal.SIGINT, 130) if state == "running" else (signal.SIGTERM, 0)
    lines = tmp_path / "x.jsonl"
    program = start(address, "--jsonl", lines, load_s=load_s)
    try:
        assert program.stderr is not None
        await_line(program.stderr, said)
        if state == "running":
            await_valid_record(lines)
        time.sleep(0.3)
        children = descendants(program.pid)
        sent_s = time.monotonic()
        program.send_signal(number)
        program.communicate(timeout=30)
        assert time.monotonic() - sent_s < EXIT_S + SLACK_S
        assert program.returncode == code
        deadline_s = time.monotonic() + 5
        while any(map(alive, children)) and time.monotonic() < deadline_s:
            time.sleep(0.05)
        assert not any(map(alive, children))
    finally:
        program.kill()
    if state == "running":
        records = [json.loads(line) for line in lines.read_text().splitlines()]
        assert any(record["valid"] for record in records)


def test_an_engine_that_hangs_does_not_keep_a_stopped_run(tmp_path: Path) -> None:
    program = start("test://pattern?size=96x128", "--jsonl", tmp_path / "x.jsonl", infer_s=60)
    try:
        assert program.stderr is not None
        await_line(program.stderr, "camera0 is running")
        sent_s = time.monotonic()
        program.send_signal(signal.SIGTERM)
        program.communicate(timeout=30)
        assert time.monotonic() - sent_s < EXIT_S + SLACK_S and program.returncode in (0, 143)
    finally:
        program.kill()


@pytest.mark.parametrize(
    ("address", "dies_at", "code", "said"),
    [
        ("test://pattern?size=96x128", 10, 70, "memory ran out"),
        ("test://pattern?size=96x128&script=ok 200ms; crash&loop=1", -1, 70, "no camera is left: camera0 failed"),
        ("csi://0", -1, 2, "no camera can be used: camera0 failed"),
    ],
)
def test_what_a_new_process_may_cure_exits_with_70(
    address: str, dies_at: int, code: int, said: str, tmp_path: Path
) -> None:
    program = start(address, "--jsonl", tmp_path / "x.jsonl", dies_at=dies_at)
    _, heard = program.communicate(timeout=60)
    assert program.returncode == code and heard.splitlines()[-1].startswith("pspnet: ") and said in heard
    assert not json.loads((tmp_path / "x.jsonl").read_text().splitlines()[-1])["valid"]


@pytest.mark.parametrize(
    ("option", "said"),
    [("--region", "camera0: region 500x10+0+0"), ("--mask", "camera0: its mask is 10x20, its pictures 96x128")],
)
def test_a_camera_that_can_never_work_ends_the_run_with_2(option: str, said: str, tmp_path: Path) -> None:
    mask = tmp_path / "mask.png"
    cv2.imwrite(str(mask), np.full((10, 20), 255, np.uint8))
    value = {"--region": "500x10+0+0", "--mask": mask}[option]
    arguments = ["test://pattern?size=96x128", "--jsonl", tmp_path / "x.jsonl", option, value, "--seconds", 20]
    program = start(*arguments)
    printed, heard = program.communicate(timeout=60)
    lines = heard.splitlines()
    assert (
        program.returncode == 2 and printed == "" and lines[-1].startswith(f"pspnet: no camera can be used: {said}")
    ), heard
    assert sum("no camera can be used" in line for line in lines) == 1 and "Traceback" not in heard


def test_while_the_engine_loads_the_page_says_so_and_a_stop_does_not_wait() -> None:
    program = start("test://pattern?size=96x128", "--serve", "127.0.0.1:0", load_s=60)
    try:
        assert program.stderr is not None
        page = next(line.split()[-1] for line in program.stderr if "live page on" in line)
        await_line(program.stderr, "loading")
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{page}readyz", timeout=30)
        assert (refused.value.code, refused.value.read()) == (503, b"not ready: the engine is loading\n")
        with urllib.request.urlopen(f"{page}healthz", timeout=30) as answer:
            assert answer.status == 200
        program.send_signal(signal.SIGTERM)
        _, heard = program.communicate(timeout=30)
        assert program.returncode == 0 and heard == "pspnet: stopped while the engine was loading\n"
    finally:
        program.kill()


def test_a_whole_run(tmp_path: Path) -> None:
    arguments = ["test://pattern?size=96x128&fps=20", "test://pattern?size=48x64&fps=20&script=ok 1s; end"]
    outputs = ["--jsonl", tmp_path / "x.jsonl", "--json", tmp_path / "x.json", "--serve", "127.0.0.1:0"]
    program = start(*arguments, *outputs, "--shared-labels", f"t{os.getpid()}", "--seconds", 3)
    printed, said = program.communicate(timeout=60)
    assert program.returncode == 0, said
    assert "camera0: " in printed and "live page on http://127.0.0.1:" in said
    records = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    for camera in ("camera0", "camera1"):
        mine = [record for record in records if record["camera"] == camera]
        assert any(record["valid"] for record in mine)
        stamps = [record["sequence"] for record in mine if record["valid"]]
        assert stamps == sorted(set(stamps))
        assert all(record["age_ms"] <= record["max_age_ms"] for record in mine if record["valid"])
    report = json.loads((tmp_path / "x.json").read_text())
    assert report["cameras"]["camera0"]["valid"] > 5 and report["cameras"]["camera0"]["decoder"]
    assert set(report["cameras"]["camera0"]["times_ms"]) >= {"infer", "age"}
    assert not list(Path("/dev/shm").glob(f"*t{os.getpid()}*"))


def test_results_that_are_all_too_old_and_a_camera_that_never_came_say_why(tmp_path: Path) -> None:
    arguments = ["test://pattern?size=96x128&fps=20", "test://pattern?size=96x128&script=refuse 10000"]
    outputs = ["--jsonl", tmp_path / "x.jsonl", "--json", tmp_path / "x.json"]
    program = start(*arguments, *outputs, "--max-age-ms", 60, "--seconds", 8, infer_s=0.1)
    printed, said = program.communicate(timeout=60)
    assert program.returncode == 0, said
    fix = "at most 60 ms are allowed: raise --max-age-ms (max_age_ms in drive.toml), or take a faster engine"
    assert said.count("camera0 runs, but had no valid result for 3 s, most often because the picture is") == 1
    assert fix in said and fix in printed.splitlines()[0]
    cameras = json.loads((tmp_path / "x.json").read_text())["cameras"]
    assert cameras["camera1"]["cause"] == "refused" and cameras["camera1"]["message"]
    assert cameras["camera0"]["cause"] == "" and fix in cameras["camera0"]["why_invalid"]


def test_a_password_on_the_command_line_is_warned_about_and_never_shown(tmp_path: Path) -> None:
    program = start("rtsp://me:s3cret@127.0.0.1:9/x", "--jsonl", tmp_path / "x.jsonl", "--seconds", 1.5)
    printed, said = program.communicate(timeout=60)
    assert "can be seen by every user" in said and "s3cret" not in printed + said + (tmp_path / "x.jsonl").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "run needs an artefact and sources, or --config"),
        (["m.onnx"], "run needs a source"),
        (["m.onnx", "--check"], "--check looks through a configuration"),
        (["m.onnx", "x.mp4", "--shard", "1/2"], "give --list"),
        (["m.onnx", "x.mp4", "--serve", "--jsonl", "o.jsonl"], "--serve is for cameras"),
        (["m.onnx", "x.mp4", "--max-age-ms", "3"], "--max-age-ms is for cameras"),
        (["m.onnx", "test://pattern", "--limit", "3"], "--limit is for files"),
        (["m.onnx", "test://pattern", "x.mp4"], "x.mp4 is a file and others are cameras"),
        (["m.onnx", "test://pattern", "--realtime"], "test:// is a camera already"),
        (["m.onnx", "gone.mp4", "--realtime"], "gone.mp4 does not exist"),
        (["m.onnx", "test://pattern"], "run needs an output"),
        (["m.onnx", "test://pattern?sise=3", "--window"], "option sise=3 is not understood"),
        (["m.onnx", "ftp://host/x", "--window"], "is no camera: give one of"),
        (["m.onnx", "gst://videotestsrc", "--window"], "--allow-gstreamer"),
        (
            ["m.onnx", "test://pattern", "--serve", "0.0.0.0"],
            "give a token, with --token-file FILE on the command line",
        ),
        (["m.onnx", "test://pattern", "--token-file", "x"], "--token-file is for the web page"),
        (["m.onnx", "test://pattern", "--window", "--min-confidence", "3"], "min_confidence is 3"),
        (["m.onnx", "test://pattern", "--window", "--seconds", "0"], "seconds is 0"),
        (["m.onnx", "test://pattern", "--select", "x", "--select-share", "0"], "select_share is 0: give more than 0"),
        (["m.onnx", "test://pattern", "--window", "--select-share", "0.1"], "select_share is of the frames"),
        (["m.onnx", "--config", "drive.toml"], "the file says which network and cameras run"),
        (["--config", "drive.toml", "--serve"], "--serve stands beside --config: write it into the file"),
        (["m.onnx", "test://pattern", "--serve"], "m.onnx is no file"),
        (["--config", "gone.toml"], "cannot read gone.toml"),
    ],
)
def test_run_refuses_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
