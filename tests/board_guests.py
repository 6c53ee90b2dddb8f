"""A board for tests: an sshd of our own on this machine, a `pspnet` that it finds, and a line that can be cut."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from calibration import board as board_module
from calibration import board_build
from pspnet.wording import own_version
from tests.nets import ROOT

SSHD = shutil.which("sshd") or next((path for path in ("/usr/sbin/sshd",) if os.path.exists(path)), None)
START_S = 10.0
DRAIN_S = 0.3  # a line goes dead before its ends notice: what has passed it is read, so what is lost can be counted
ENGINE_BYTES = 3_000_000
STEPS = 20
HELD_AT = 10
WAIT_S = 20.0
PSPNET = f"""#!{sys.executable}
import hashlib, json, os, sys, time
from pathlib import Path
if sys.argv[1:] == ["--version"]:
    print("pspnet-edge {own_version()}"); sys.exit()
home, output, model = Path(os.environ["HOME"]), Path(sys.argv[sys.argv.index("-o") + 1]), Path(sys.argv[2])
with open(home / "calls.jsonl", "a") as calls:
    print(json.dumps(sys.argv[1:]), file=calls)
try:
    for step in range({STEPS}):
        print(f"step {{step}}", file=sys.stderr, flush=True)
        end = time.monotonic() + {WAIT_S}
        while step == {HELD_AT} and "--tiling" in sys.argv and not (home / "go").exists() and time.monotonic() < end:
            time.sleep(0.02)
except KeyboardInterrupt:
    (home / "interrupted").touch(); sys.exit(130)
if "--workspace" in sys.argv:
    print("pspnet: TensorRT refuses it: try --low-memory", file=sys.stderr); sys.exit(2)
plan = (hashlib.sha256(model.read_bytes()).digest() * {ENGINE_BYTES})[:{ENGINE_BYTES}]
output.write_bytes(plan)
output.with_name(output.name + ".json").write_text(json.dumps(hashlib.sha256(plan).hexdigest()))
cache = Path(os.environ["XDG_CACHE_HOME"], "pspnet-edge", "timing-cache"); cache.mkdir(parents=True, exist_ok=True)
(cache / "trt.cache").write_bytes(b"timings")
print(f"{{output.name}}: fp16 strong")
"""
"""A stand-in whose engine follows from the model alone, which tells how often it was begun, and waits with --tiling."""


@dataclass
class Line:
    """A TCP line to the board that breaks once after some bytes of one direction; both directions are counted."""

    target: int
    port: int = 0
    up_bytes: int = 0
    down_bytes: int = 0
    connections: int = 0
    cut_up_at: int | None = None
    cut_down_at: int | None = None
    _open: list[socket.socket] = field(default_factory=list)

    def start(self) -> Line:
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        threading.Thread(target=self._serve, args=(listener,), daemon=True).start()
        return self

    def cut(self) -> None:
        """Break what is open now."""
        for end in self._open:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            near, _ = listener.accept()
            far = socket.create_connection(("127.0.0.1", self.target))
            self.connections += 1
            self._open += [near, far]
            threading.Thread(target=self._pass, args=(near, far, "up"), daemon=True).start()
            threading.Thread(target=self._pass, args=(far, near, "down"), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        with suppress(OSError):
            while block := source.recv(1 << 14):
                sink.sendall(block)
                carried = getattr(self, f"{way}_bytes") + len(block)
                setattr(self, f"{way}_bytes", carried)
                limit = getattr(self, f"cut_{way}_at")
                if limit is not None and carried >= limit:
                    setattr(self, f"cut_{way}_at", None)
                    time.sleep(DRAIN_S)
                    self.cut()
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


@dataclass
class TestBoard:
    """home: of jobs and programs; url: for --on; line: what connections run through; ssh: the folder of our client."""

    __test__ = False
    home: Path
    line: Line
    ssh: Path

    @property
    def url(self) -> str:
        return f"ssh://127.0.0.1:{self.line.port}{self.home}/jobs"

    def program(self, text: str, name: str = "pspnet") -> None:
        """Put an executable on the board's PATH."""
        path = self.home / "bin" / name
        path.write_text(text)
        path.chmod(0o755)


@contextmanager
def board_at(folder: Path) -> Iterator[TestBoard]:
    """An sshd with host key, configuration and authorized_keys of its own in `folder`; skipped where there is none."""
    if SSHD is None or shutil.which("ssh") is None:
        pytest.skip("no OpenSSH server (sshd) on this machine")
    home = folder / "board"
    (home / "bin").mkdir(parents=True)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    shutil.copy(folder / "user.pub", folder / "authorized_keys")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized_keys\n"
        f"StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPidFile none\n"
        f"PermitRootLogin prohibit-password\nMaxStartups 100\n"
        f"SetEnv PATH={home}/bin:/usr/bin:/bin HOME={home} XDG_CACHE_HOME={home}/cache OMP_NUM_THREADS=1\n"
    )
    if os.getuid() == 0:  # Debian's service makes this empty folder before it starts sshd as root
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    with open(folder / "sshd.log", "wb") as log:
        server = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "sshd_config"], stdout=log, stderr=log)
    try:
        _await(port, server, folder / "sshd.log")
        line = Line(port).start()
        yield TestBoard(home, line, _client(folder, (folder / "host.pub").read_text(), line.port))
    finally:
        server.terminate()
        server.wait()


def _client(folder: Path, host_key: str, port: int) -> Path:
    """A folder for PATH whose `ssh` is the system's with a configuration that knows this board's key, and only that.

    In the folder `sharing` beside it, `ssh` keeps one connection for all commands, as many people's configuration does.
    """
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}")
    (folder / "ssh_config").write_text(
        f"IdentityFile {folder}/user\nIdentitiesOnly yes\nUserKnownHostsFile {folder}/known_hosts\n"
        "GlobalKnownHostsFile none\nStrictHostKeyChecking yes\n"
    )
    sharing = f"-o ControlMaster=auto -o ControlPath={folder}/master -o ControlPersist=5"
    for name, options in (("client", ""), ("sharing", sharing)):
        (folder / name).mkdir()
        wrapper = folder / name / "ssh"
        wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/ssh_config {options} "$@"\n')
        wrapper.chmod(0o755)
    return folder / "client"


def _await(port: int, server: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            pytest.skip(f"sshd does not start here: {log.read_text().strip()[:200]}")
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    pytest.fail("sshd did not answer")


def prepared(board: TestBoard, monkeypatch: pytest.MonkeyPatch, cache: Path, client: str = "client") -> TestBoard:
    """The board with the stand-in, our ssh on PATH, little patience, and nothing left of earlier tests."""
    monkeypatch.setenv("PATH", f"{board.ssh.with_name(client)}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr(board_module, "BACK_OFF_S", (0.1, 0.2))
    monkeypatch.setattr(board_build, "POLL_S", 0.05)
    board.program(PSPNET)
    shutil.rmtree(board.home / "jobs", ignore_errors=True)
    for name in ("calls.jsonl", "interrupted", "go"):
        (board.home / name).unlink(missing_ok=True)
    return board


def arguments(model: Path, folder: Path, there: TestBoard, *more: str) -> list[str]:
    return ["build", str(model), "-o", str(folder / "a.engine"), "--on", there.url, *more]


def calls(there: TestBoard) -> list[list[str]]:
    return [json.loads(line) for line in (there.home / "calls.jsonl").read_text().splitlines()]


def release(there: TestBoard) -> None:
    """Let a build that was begun with --tiling go on."""
    (there.home / "go").touch()


def when(condition: Callable[[], bool], action: Callable[[], object]) -> threading.Thread:
    """A thread that calls `action` as soon as `condition` holds."""

    def wait() -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.02)
        action()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def log_has(there: TestBoard, text: str) -> bool:
    return any(text in path.read_text() for path in (there.home / "jobs").glob("*/log"))


def client(model: Path, folder: Path, there: TestBoard, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "pspnet", *arguments(model, folder, there, *more)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
