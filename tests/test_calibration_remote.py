"""`pspnet build --on ssh://` against a real sshd: whole, cut in every phase, killed here, ended there."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from calibration import board_build, remote
from pspnet import cli
from pspnet.files import sha256_of
from tests.board_guests import (
    ENGINE_BYTES,
    HELD_AT,
    STEPS,
    TestBoard,
    arguments,
    board_at,
    calls,
    client,
    log_has,
    prepared,
    release,
    when,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestBoard]:
    with board_at(tmp_path_factory.mktemp("ssh")) as found:
        yield found


@pytest.fixture
def there(server: TestBoard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TestBoard:
    return prepared(server, monkeypatch, tmp_path / "cache")


def check_fetched(folder: Path, there: TestBoard, *others: str) -> None:
    """The engine is what the board wrote, by the hash that it wrote beside it, and nothing is left of the job."""
    assert sha256_of(folder / "a.engine") == json.loads((folder / "a.engine.json").read_text())
    assert (folder / "a.engine").stat().st_size == ENGINE_BYTES
    assert sorted(path.name for path in folder.iterdir() if path.name not in ("cache", *others)) == [
        "a.engine",
        "a.engine.json",
    ]
    assert [path.name for path in (there.home / "jobs").iterdir() if path.is_dir()] == []
    assert len(calls(there)) == 1


def test_a_build_on_the_board(
    there: TestBoard, small_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert cli.main(arguments(small_onnx, tmp_path, there, "--precision", "fp16", "--no-compare", "--batch", "4")) == 0
    check_fetched(tmp_path, there)
    printed = capsys.readouterr()
    assert printed.out == "a.engine: fp16 strong\n"
    assert "step 0\nstep 1\n" in printed.err and "building on 127.0.0.1" in printed.err
    assert calls(there)[0] == [
        "build", small_onnx.name, "-o", "results/a.engine", "--precision", "fp16", "--batch", "4", "--no-compare",
    ]  # fmt: skip
    assert (tmp_path / "cache/pspnet-edge/timing-cache/trt.cache").read_bytes() == b"timings"
    assert (tmp_path / "a.engine").stat().st_mode & 0o777 == remote.READABLE


@pytest.mark.parametrize("phase", ["upload", "build", "download"])
def test_a_line_that_breaks_costs_nothing_twice(
    there: TestBoard, small_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture, phase: str,
) -> None:  # fmt: skip
    line, sent, received = there.line, there.line.up_bytes, there.line.down_bytes
    if phase == "build":
        shown: list[int] = []
        show = board_build.Screen.show
        monkeypatch.setattr(board_build.Screen, "show", lambda self, piece: (show(self, piece), shown.append(1)))
        when(lambda: len(shown) > 0 and log_has(there, f"step {HELD_AT}"), lambda: (line.cut(), release(there)))
    else:
        line.cut_up_at = sent + small_onnx.stat().st_size // 2 if phase == "upload" else None
        line.cut_down_at = received + ENGINE_BYTES // 2 if phase == "download" else None
        release(there)
    assert cli.main(arguments(small_onnx, tmp_path, there, "--tiling", "fast")) == 0
    check_fetched(tmp_path, there)
    printed = capsys.readouterr().err
    assert printed.count("trying again") == 1
    steps = [row.split("\r")[-1].strip() for row in printed.splitlines() if "step" in row]
    assert steps == [f"step {number}" for number in range(STEPS)]
    most = 1.02 * (small_onnx.stat().st_size + ENGINE_BYTES) + 15_000 * 2 * 14
    assert line.up_bytes - sent + line.down_bytes - received < most


def test_a_workstation_that_dies_finds_its_build_again(there: TestBoard, small_onnx: Path, tmp_path: Path) -> None:
    first = client(small_onnx, tmp_path, there, "--tiling", "fast")
    when(lambda: log_has(there, "step 9"), first.kill).join()
    first.communicate()
    assert not (tmp_path / "a.engine").exists()
    before = there.line.connections
    second = client(small_onnx, tmp_path, there, "--tiling", "fast")
    when(lambda: there.line.connections > before + 4, lambda: release(there))
    said = second.communicate()[1]
    assert second.returncode == 0 and "still building on 127.0.0.1" in said
    check_fetched(tmp_path, there)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_shutdown_here_leaves_the_build_there_and_no_file_here(
    there: TestBoard, small_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    (scratch := tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    running = client(small_onnx, tmp_path, there, "--tiling", "fast")
    when(lambda: log_has(there, "step 9"), lambda: running.send_signal(number)).join()
    said = running.communicate()[1]
    assert running.returncode == 128 + number and "the build goes on on 127.0.0.1" in said and "Traceback" not in said
    assert f"pspnet: ended by {number.name}; " in said.splitlines()[-1] and not list(scratch.iterdir())
    assert not (there.home / "interrupted").exists() and not (tmp_path / "a.engine").exists()
    release(there)
    again = client(small_onnx, tmp_path, there, "--tiling", "fast")
    assert again.wait() == 0
    check_fetched(tmp_path, there, "scratch")


def test_ctrl_c_ends_the_build_on_the_board(there: TestBoard, small_onnx: Path, tmp_path: Path) -> None:
    running = client(small_onnx, tmp_path, there, "--tiling", "fast")
    when(lambda: log_has(there, "step 9"), lambda: running.send_signal(signal.SIGINT)).join()
    said = running.communicate()[1]
    assert running.returncode == 130 and "ending the build on 127.0.0.1" in said and "Traceback" not in said
    assert (there.home / "interrupted").exists()
    assert not [path for path in (there.home / "jobs").iterdir() if path.is_dir()]
    assert not (tmp_path / "a.engine").exists()
