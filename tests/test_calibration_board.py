"""Copies and commands over a real sshd: what is resumed, what is counted, and what each failure says."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from calibration import board as module
from calibration.board import FOLDER, Address, Board
from pspnet.errors import PspnetError
from pspnet.files import sha256_of
from tests.board_guests import TestBoard, board_at

SIZE = 6_000_000
CUT_AT = 2_000_000
HANDSHAKE_BYTES = 20_000  # of one connection, one way: keys, authentication, window messages
OVERHEAD = 1.02  # of ssh's packets and checksums


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestBoard]:
    with board_at(tmp_path_factory.mktemp("ssh")) as found:
        yield found


@pytest.fixture
def there(server: TestBoard, monkeypatch: pytest.MonkeyPatch) -> TestBoard:
    """The board, with our ssh on PATH and little patience."""
    monkeypatch.setenv("PATH", f"{server.ssh}:{os.environ['PATH']}")
    monkeypatch.setattr(module, "BACK_OFF_S", (0.1, 0.2))
    return server


@pytest.fixture
def payload(tmp_path: Path) -> Path:
    path = tmp_path / "payload.bin"
    path.write_bytes(np.random.default_rng(0).bytes(SIZE))
    return path


def connected(there: TestBoard) -> Board:
    return Board(Address.from_url(there.url))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("ssh://jetson", Address("jetson")),
        ("ssh://me@Jetson-1.local:2222", Address("Jetson-1.local", "me", 2222)),
        ("ssh://me@jetson/mnt/nvme", Address("jetson", "me", folder="/mnt/nvme")),
        ("ssh://jetson/~/builds/", Address("jetson", folder="builds")),
        ("ssh://jetson?venv=~/pspnet-edge/.venv", Address("jetson", venv="pspnet-edge/.venv")),
        ("ssh://jetson:22/data?venv=/opt/venv", Address("jetson", None, 22, "/data", "/opt/venv")),
        ("ssh://[fe80::1%eth0]:22", Address("fe80::1%eth0", None, 22, FOLDER)),
    ],
)
def test_an_address_is_read(url: str, expected: Address) -> None:
    assert Address.from_url(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "jetson", "ssh://", "http://jetson", "ssh://-oProxyCommand=x", "ssh://-l@jetson", "ssh://jetson:0", "ssh://a b",
        "ssh://jetson:99999", "ssh://jetson?user=me", "ssh://jetson;reboot", "ssh://jetson#x", "ssh://@jetson",
    ],
)  # fmt: skip
def test_what_ssh_could_take_for_something_else_is_refused(url: str) -> None:
    with pytest.raises(PspnetError, match=r"is no address of a board: give --on ssh://user@jetson"):
        Address.from_url(url)


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(PspnetError, match=r"ssh-copy-id") as refusal:
        Address.from_url("ssh://me:hunter2@jetson")
    assert "hunter2" not in str(refusal.value)


def test_arguments_reach_the_board_as_they_are(there: TestBoard) -> None:
    odd = ["a b", "it's", '"$HOME"', "*", "-x;y"]
    assert connected(there).run('pwd; for word in "$@"; do echo "$word"; done', *odd).splitlines() == [
        str(there.home), *odd,
    ]  # fmt: skip


def test_an_upload_goes_on_where_it_was_cut(there: TestBoard, payload: Path) -> None:
    board, line = connected(there), there.line
    before, connections = line.up_bytes, line.connections
    line.cut_up_at = before + CUT_AT
    board.insist(lambda: board.upload(payload, "new/up.bin", sha256_of(payload)))
    assert (there.home / "new/up.bin").read_bytes() == payload.read_bytes()
    assert not (there.home / "new/up.bin.part").exists()
    carried = line.up_bytes - before - HANDSHAKE_BYTES * (line.connections - connections)
    assert line.cut_up_at is None and carried < OVERHEAD * SIZE


def test_a_copy_that_is_there_is_not_sent_again(there: TestBoard, payload: Path) -> None:
    for board in (connected(there), connected(there)):
        board.upload(payload, "files/once.bin", sha256_of(payload))
    assert board.sent_bytes == 0


def test_a_download_goes_on_where_it_was_cut(there: TestBoard, payload: Path, tmp_path: Path) -> None:
    board, back = connected(there), tmp_path / "back.bin"
    (there.home / "down.bin").write_bytes(payload.read_bytes())
    there.line.cut_down_at = there.line.down_bytes + CUT_AT
    board.insist(lambda: board.download("down.bin", back, SIZE, sha256_of(payload)))
    assert there.line.cut_down_at is None
    assert back.read_bytes() == payload.read_bytes() and board.received_bytes == SIZE


def test_damage_on_the_way_is_found_and_not_kept(there: TestBoard, payload: Path, tmp_path: Path) -> None:
    board = connected(there)
    (there.home / "files").mkdir(exist_ok=True)
    (there.home / "files" / "bad.bin.part").write_bytes(bytes(SIZE))
    with pytest.raises(PspnetError, match=r"it arrived damaged. Mend that, and run"):
        board.upload(payload, "files/bad.bin", sha256_of(payload))
    assert not list((there.home / "files").glob("bad.bin*"))
    (tmp_path / "bad.bin").write_bytes(b"wrong")
    with pytest.raises(PspnetError, match=r"arrived damaged"):
        board.download("files/once.bin", tmp_path / "bad.bin", 5, sha256_of(payload))
    assert not (tmp_path / "bad.bin").exists()


def test_a_board_that_stays_away_is_given_up(
    there: TestBoard, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.3)
    away = Board(Address("127.0.0.1", port=unused_port()))
    with pytest.raises(PspnetError, match=r"no connection to 127.0.0.1: .*refused. Try ssh -p"):
        away.insist(lambda: away.run("true"))
    assert "no connection to 127.0.0.1: trying again in" in capsys.readouterr().err


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def test_no_ssh_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PspnetError, match=r"which this machine lacks: .*apt-get install openssh-client"):
        Board(Address("jetson"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("UserKnownHostsFile none", "host key of 127.0.0.1 is not known here: compare and accept it once with ssh -p"),
        ("UserKnownHostsFile {other}", "shows another host key than before: .* ssh-keygen -R"),
        ("IdentityFile none", "127.0.0.1 accepts no key of yours: ssh-copy-id -p"),
        ("ProxyCommand false", "no connection to 127.0.0.1: .*closed"),
    ],
)
def test_what_ssh_refuses_is_said_in_one_line(
    there: TestBoard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str, message: str
) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    other = tmp_path / "known"
    other.write_text(f"[127.0.0.1]:{there.line.port} {(tmp_path / 'key.pub').read_text()}")
    lines = (there.ssh.parent / "ssh_config").read_text().splitlines()
    name = options.split()[0]
    (tmp_path / "ssh_config").write_text(
        "\n".join([options.format(other=other), *(line for line in lines if not line.startswith(name))]) + "\n"
    )
    program = tmp_path / "ssh"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(module.shutil.which("ssh", path="/usr/bin:/bin") or "ssh")} '
                       f'-F {tmp_path}/ssh_config "$@"\n')  # fmt: skip
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(PspnetError, match=message) as refusal:
        connected(there).run("true")
    assert "\n" not in str(refusal.value)


def test_a_full_disk_is_told(there: TestBoard, payload: Path) -> None:
    there.program("#!/bin/sh\ncat > /dev/null\necho dd: No space left on device >&2\nexit 1\n", "dd")
    try:
        with pytest.raises(PspnetError, match=r"the disk of 127.0.0.1 is full: free some space in"):
            connected(there).upload(payload, "files/full.bin", sha256_of(payload))
    finally:
        (there.home / "bin" / "dd").unlink()


def test_a_command_that_fails_says_its_last_line(there: TestBoard) -> None:
    with pytest.raises(PspnetError, match=r"a command on 127.0.0.1 failed: second. Mend"):
        connected(there).run("echo first >&2; echo second >&2; exit 3")
