"""`pspnet build --on ssh://` against a real sshd: what it refuses, and what it hands on. One connection for all."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import pytest

from calibration import remote
from pspnet import cli
from pspnet.engine_arguments import add_build
from pspnet.errors import PspnetError
from pspnet.wording import own_version
from tests.board_guests import (
    TestBoard,
    arguments,
    board_at,
    client,
    log_has,
    prepared,
    release,
    when,
)  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestBoard]:
    with board_at(tmp_path_factory.mktemp("ssh")) as found:
        yield found


@pytest.fixture
def there(server: TestBoard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TestBoard:
    return prepared(server, monkeypatch, tmp_path / "cache", "sharing")


def test_a_refusal_of_the_board_is_one_line(
    there: TestBoard, small_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert cli.main(arguments(small_onnx, tmp_path, there, "--workspace", "1")) == 2
    said = capsys.readouterr().err
    assert said.endswith("\npspnet: on 127.0.0.1: TensorRT refuses it: try --low-memory\n")
    assert said.count("TensorRT refuses it") == 1
    assert not list(tmp_path.glob("a.*")) and not [p for p in (there.home / "jobs").iterdir() if p.is_dir()]


def test_two_builds_do_not_share_a_board(there: TestBoard, small_onnx: Path, tmp_path: Path) -> None:
    first = client(small_onnx, tmp_path, there, "--tiling", "fast")
    when(lambda: log_has(there, "step 9"), lambda: None).join()
    with pytest.raises(PspnetError, match=r"another build runs on 127.0.0.1, job \w{16}, and"):
        remote.build_on(cli.parser().parse_args(arguments(small_onnx, tmp_path, there, "--tiling", "full")))
    release(there)
    assert first.wait() == 0


@pytest.mark.parametrize(
    ("program", "name", "message"),
    [
        (None, "pspnet", r"no pspnet on 127.0.0.1: name the environment .*\?venv=pspnet-edge/.venv"),
        ("#!/bin/sh\necho pspnet-edge 0.0.1\n", "pspnet", "has pspnet-edge 0.0.1, this machine pspnet-edge"),
        ("#!/bin/sh\necho /dev/x 1000 900 5 99% /\n", "df", "has 0 MB free in .*/jobs, the build needs"),
    ],
)
def test_a_board_that_cannot_build_is_refused_before_anything_is_sent(
    there: TestBoard, small_onnx: Path, tmp_path: Path, program: str | None, name: str, message: str
) -> None:
    path = there.home / "bin" / name
    path.unlink(missing_ok=True)
    if program:
        there.program(program, name)
    sent = there.line.up_bytes
    try:
        with pytest.raises(PspnetError, match=message):
            remote.build_on(cli.parser().parse_args(arguments(small_onnx, tmp_path, there)))
    finally:
        path.unlink(missing_ok=True)
    assert there.line.up_bytes - sent < small_onnx.stat().st_size / 10


def test_the_environment_in_the_address_is_used(there: TestBoard, small_onnx: Path, tmp_path: Path) -> None:
    folder = there.home / "my venv" / "bin"
    folder.mkdir(parents=True, exist_ok=True)
    (there.home / "bin" / "pspnet").rename(folder / "pspnet")
    more = arguments(small_onnx, tmp_path, there)
    more[more.index("--on") + 1] += "?venv=my venv"
    assert cli.main(more) == 0
    assert (tmp_path / "a.engine").exists()


def test_an_environment_that_is_not_there_is_refused(
    there: TestBoard, small_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    more = arguments(small_onnx, tmp_path, there)
    more[more.index("--on") + 1] += "?venv=nope"
    assert cli.main(more) == 2
    assert "no pspnet on 127.0.0.1 in the environment nope, which has no bin/pspnet: " in capsys.readouterr().err
    assert not (there.home / "calls.jsonl").exists() and not (tmp_path / "a.engine").exists()


def test_a_folder_that_everybody_may_write_to_is_refused_before_anything_is_sent(
    there: TestBoard, small_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (everybodys := tmp_path / "open").mkdir()
    (inside := everybodys / "own").mkdir()
    everybodys.chmod(0o777)
    for folder in (everybodys, inside):
        assert cli.main(arguments(small_onnx, folder, there)) == 2
        assert f"everybody may write to the folder {everybodys}, so" in capsys.readouterr().err
    assert not (there.home / "calls.jsonl").exists() and list(everybodys.rglob("*")) == [inside]


def test_every_candidate_that_missed_a_limit_is_told(
    there: TestBoard, small_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    lines = ["fp16 weak: mIoU drops by 3 points", "fp16 strong: mIoU drops by 2 points"]
    says = "".join(f"echo 'pspnet: {line}' >&2\n" for line in lines)
    version = f"echo pspnet-edge {own_version()}"
    there.program(f'#!/bin/sh\nif [ "$1" = --version ]; then {version}; exit; fi\n{says}exit 1\n')
    (tmp_path / "a.engine").write_bytes(b"earlier")
    assert cli.main(arguments(small_onnx, tmp_path, there)) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[-3:-1] == [f"pspnet: on 127.0.0.1: {line}" for line in lines]
    assert said[-1] == f"pspnet: {tmp_path / 'a.engine'} is still the earlier engine"


def test_every_flag_of_build_reaches_the_board_or_is_this_machines() -> None:
    verbs = argparse.ArgumentParser().add_subparsers()
    add_build(verbs)
    actions = [action for action in verbs.choices["build"]._actions if action.dest not in remote.IN_OTHER_FORM]
    given: list[str] = []
    for action in actions:
        flag = action.option_strings[-1] if action.default is True else action.option_strings[0]
        given += [flag] if action.nargs == 0 else [flag, str((action.type or str)("7"))]
    assert remote.flags_of(verbs.choices["build"].parse_args(["m.onnx", *given])) == given
    assert remote.flags_of(verbs.choices["build"].parse_args(["m.onnx", "--on", "ssh://x", "--json", "y"])) == []
