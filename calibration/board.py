"""A board reached by the system's ssh: short commands, copies that go on at the byte where they stopped, plain errors.

Keys, agents, jump hosts and known hosts are ssh's own, from ~/.ssh/config: nothing here asks for or keeps a secret.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

from tqdm import tqdm

from pspnet.errors import PspnetError
from pspnet.files import sha256_of

T = TypeVar("T")
FOLDER = ".cache/pspnet-edge/builds"
"""Of jobs on a board, below its home, where the address names no other."""
BLOCK_BYTES = 1 << 16
CONNECTION_LOST = 255
"""Exit code by which ssh says that it is the connection that failed, not the command."""
BACK_OFF_S = (1.0, 30.0)
"""First and longest wait before another try."""
PATIENCE_S = 900.0
"""How long a board may stay away before the command here gives up."""
ADDRESS = re.compile(
    r"ssh://(?:(?P<user>\w[\w.+-]*)@)?(?P<host>\w[\w.-]*|\[[\w:.%]+\])(?::(?P<port>\d+))?(?P<folder>/[^?#]*)?"
    r"(?:\?venv=(?P<venv>[^?#&]+))?"
)
"""No user or host begins with a dash, which ssh would take as an option, and ProxyCommand is one."""
OPTIONS = {"BatchMode": "yes", "ConnectTimeout": "10", "ServerAliveInterval": "5", "ServerAliveCountMax": "3"}

ARRIVED = """mkdir -p "${1%/*}"; f="$1"; [ -f "$f" ] || f="$1.part"
if [ -f "$f" ]; then wc -c < "$f"; else echo 0; fi"""
# The offset is written out, so that a late block of a connection believed dead lands where the same bytes belong.
RECEIVE = """part="$1.part"; if [ -f "$1" ]; then exit 0; fi
dd of="$part" bs=65536 seek="$2" oflag=seek_bytes conv=notrunc status=none || exit
if [ "$(wc -c < "$part")" -lt "$3" ]; then echo "it arrived in part" >&2; exit 1; fi
if [ "$(sha256sum < "$part" | cut -c -64)" = "$4" ]; then mv "$part" "$1"; exit; fi
rm "$part"; echo "it arrived damaged" >&2; exit 1"""
SEND = 'tail -c "+$2" "$1"'


class ConnectionLost(PspnetError):
    """The connection broke; what has been copied is kept, and another try goes on from there."""


@dataclass(frozen=True)
class Address:
    """Where a board is. port None: ssh's own choice. folder: for jobs, and venv: with pspnet; both from its home."""

    host: str
    user: str | None = None
    port: int | None = None
    folder: str = FOLDER
    venv: str = ""

    @classmethod
    def from_url(cls, url: str) -> Address:
        """ssh://[user@]host[:port][/folder][?venv=folder], where /~/ begins a folder in the board's home."""
        if re.match(r"ssh://[^/@]*:[^/]*@", url):
            raise PspnetError(
                "the address in --on holds a password, which others see in the list of processes: leave it out, and "
                "let the board know a key of yours: ssh-copy-id USER@HOST"
            )
        match = ADDRESS.fullmatch(url)
        if not match or not 0 < int(match["port"] or 22) < 65536:
            raise PspnetError(
                f"{url!r} is no address of a board: give --on ssh://user@jetson, with :port, /folder and ?venv=FOLDER "
                "as needed"
            )
        port = int(match["port"]) if match["port"] else None
        folder, venv = _from_home(match["folder"] or ""), _from_home(match["venv"] or "")
        return cls(match["host"].strip("[]"), match["user"], port, folder or FOLDER, venv)

    @property
    def ssh(self) -> list[str]:
        """Destination and port as ssh takes them."""
        destination = f"{self.user}@{self.host}" if self.user else self.host
        return [*(["-p", str(self.port)] if self.port else []), destination]


class Board:
    """Commands on the machine at `address`, each over a connection of its own.

    sent_bytes, received_bytes: what copies have carried so far, all tries together.
    """

    def __init__(self, address: Address) -> None:
        if not shutil.which("ssh"):
            raise PspnetError(
                "--on needs ssh, which this machine lacks: install OpenSSH's client, apt-get install openssh-client"
            )
        self.address = address
        self.sent_bytes = self.received_bytes = 0
        self._seen = time.monotonic()

    @property
    def name(self) -> str:
        """What messages call the board."""
        return self.address.host

    def run(self, script: str, *arguments: str | int) -> str:
        """Output of a shell script on the board, begun in its home; PspnetError with its last line where it fails."""
        with self._running(script, arguments, subprocess.DEVNULL) as process:
            assert process.stdout
            return process.stdout.read().decode(errors="replace")

    def follow(self, script: str, *arguments: str | int, sink: Callable[[bytes], None]) -> None:
        """Give every piece of a script's output to `sink` as it comes."""
        with self._running(script, arguments, subprocess.DEVNULL) as process:
            assert process.stdout
            while piece := process.stdout.read1(BLOCK_BYTES):  # type: ignore[attr-defined]
                self._seen = time.monotonic()
                sink(piece)

    def upload(self, path: Path, target: str, sha256: str) -> None:
        """Copy a file to the board, from the byte where an earlier try stopped, and compare SHA-256 there.

        target: with its folder, which is made where it is missing.
        """
        size, start = path.stat().st_size, int(self.run(ARRIVED, target))
        with open(path, "rb") as file, _bar(f"{path.name} to {self.name}", size, start) as bar:
            file.seek(start)
            with self._running(RECEIVE, (target, start, size, sha256), subprocess.PIPE) as process:
                assert process.stdin
                while block := file.read(BLOCK_BYTES):
                    process.stdin.write(block)
                    self.sent_bytes += len(block)
                    bar.update(len(block))
                process.stdin.close()

    def download(self, source: str, path: Path, size: int, sha256: str) -> None:
        """Copy a file of the board to `path`, from the byte where an earlier try stopped, and compare SHA-256 here."""
        with open(path, "ab") as file, _bar(f"{Path(source).name} from {self.name}", size, file.tell()) as bar:

            def keep(piece: bytes) -> None:
                file.write(piece)
                self.received_bytes += len(piece)
                bar.update(len(piece))

            if file.tell() < size:
                self.follow(SEND, source, file.tell() + 1, sink=keep)
        if sha256_of(path) != sha256:
            path.unlink()
            raise PspnetError(f"{Path(source).name} arrived damaged from {self.name}: run the same command again")

    def insist(self, step: Callable[[], T]) -> T:
        """What `step` returns, tried again after every lost connection until the board is away for too long."""
        delay_s, away_since = BACK_OFF_S[0], None
        while True:
            try:
                return step()
            except ConnectionLost as lost:
                now = time.monotonic()
                if away_since is None or self._seen > away_since:
                    delay_s, away_since = BACK_OFF_S[0], now
                if now - away_since > PATIENCE_S:
                    raise
                print(f"{str(lost).split(':')[0]}: trying again in {delay_s:.0f} s", file=sys.stderr)
                time.sleep(delay_s * random.uniform(0.8, 1.2))
                delay_s = min(2 * delay_s, BACK_OFF_S[1])

    @contextlib.contextmanager
    def _running(self, script: str, arguments: tuple[str | int, ...], stdin: int) -> Iterator[subprocess.Popen[bytes]]:
        """A script as a process here; an error of it or of the connection is raised at the end."""
        remote = shlex.join(["sh", "-c", f'umask 077; cd "$HOME" && {script}', "sh", *map(str, arguments)])
        options = [word for name, value in OPTIONS.items() for word in ("-o", f"{name}={value}")]
        command = ["ssh", "-T", *options, *self.address.ssh, remote]
        with tempfile.TemporaryFile() as errors:
            # A session of its own: Ctrl-C is for us to handle, and must not end ssh before the build there is ended.
            process = subprocess.Popen(
                command, stdin=stdin, stdout=subprocess.PIPE, stderr=errors, start_new_session=os.name == "posix"
            )
            try:
                with contextlib.suppress(BrokenPipeError):  # the exit code says why nobody reads any more
                    yield process
                code = process.wait()
            finally:
                process.kill()
                process.wait()
                for pipe in (process.stdin, process.stdout):
                    with contextlib.suppress(OSError):
                        if pipe:
                            pipe.close()
            errors.seek(0)
            self._check(code, errors)

    def _check(self, code: int, errors: IO[bytes]) -> None:
        text = errors.read().decode(errors="replace")
        if code == CONNECTION_LOST:
            raise _refusal(self.address, text)
        self._seen = time.monotonic()
        if "No space left" in text or "Disk quota" in text:
            raise PspnetError(
                f"the disk of {self.name} is full: free some space in {self.address.folder} there, or name a folder on "
                "another disk in --on ssh://HOST/FOLDER"
            )
        if code:
            reason = _last(text) or f"exit code {code}"
            raise PspnetError(f"a command on {self.name} failed: {reason}. Mend that, and run the same command again")


def _refusal(address: Address, text: str) -> PspnetError:
    """What ssh said, as one line that says what to do; ConnectionLost where another try may help."""
    login = shlex.join(["ssh", *address.ssh])
    if "HOST IDENTIFICATION HAS CHANGED" in text:
        return PspnetError(
            f"{address.host} shows another host key than before: it was set up again, or is not your board. Once that "
            f"is clear: ssh-keygen -R {_known(address)}, then {login}"
        )
    if "Host key verification failed" in text or "host key is known" in text:
        return PspnetError(f"the host key of {address.host} is not known here: compare and accept it once with {login}")
    if "Permission denied" in text or "Too many authentication failures" in text:
        return PspnetError(
            f"{address.host} accepts no key of yours: {shlex.join(['ssh-copy-id', *address.ssh])} (a key with a "
            "passphrase must be in ssh-agent)"
        )
    return ConnectionLost(f"no connection to {address.host}: {_last(text) or 'it broke off'}. Try {login}")


def _known(address: Address) -> str:
    return f"[{address.host}]:{address.port}" if address.port not in (None, 22) else address.host


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else ""


def _from_home(folder: str) -> str:
    """A folder as a shell in the home takes it."""
    return re.sub(r"^/?~/?", "", folder).rstrip("/") or ("/" if folder == "/" else "")


def _bar(title: str, total: int, start: int) -> tqdm:
    return tqdm(desc=title, total=total, initial=start, unit="B", unit_scale=True, leave=False)
