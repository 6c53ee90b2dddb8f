"""The faults of a whole `pspnet run`, in a process of its own: signals in every state, engines that fail, no room."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.fault_scene import ENGINE_MS, SIZE
from benchmarks.fault_story import Measured
from runtime.live import LiveSettings

ROOT = Path(__file__).parents[1]
PROGRAM = """
import sys, time
import runtime.drive as drive
from benchmarks.live_overhead import FixedRunner
from pspnet.cli import main
from pspnet.errors import PspnetError
from runtime.cuda import CudaError

class Failing(FixedRunner):
    pictures = 0
    def infer(self, images):
        self.pictures += 1
        if self.pictures == {fails_at}:
            print("fails", time.monotonic_ns(), file=sys.stderr, flush=True)
            {failure}
        return super().infer(images)

def opened(*arguments):
    print("loading", file=sys.stderr, flush=True)
    {load}
    return Failing({size}, {engine_ms})

drive.open_runner = opened
sys.exit(main({arguments!r}))
"""
PATTERN = f"test://pattern?size={SIZE[0]}x{SIZE[1]}&fps=20"
SIGNALS = {
    "the engine is being loaded": (PATTERN, "loading", 0.3, "time.sleep(60)"),
    "pictures come": (PATTERN, "camera0 is running", 0.3, ""),
    "the camera is being opened": (f"{PATTERN}&script=ok 500ms; refuse 60s timeout", "camera0 is backoff", 1.0, ""),
    "the camera is awaited": (f"{PATTERN}&script=refuse 10000", "camera0 is backoff", 0.3, ""),
    "a read hangs": (f"{PATTERN}&script=ok 500ms; deaf", "camera0 is stalled", 0.3, ""),
}
"""State -> address, what the run says before it, seconds from there, Python for the loading of the engine."""

PICTURE = 30
DEADLINE_S = 120.0


@dataclass
class Run:
    """A `pspnet run` that is under way. said: lines of its stderr with the time at which each was read."""

    process: subprocess.Popen[str]
    said: list[tuple[int, str]]

    def heard(self, text: str) -> int:
        """When it said something; waited for. RuntimeError where it ends without."""
        end_s = time.monotonic() + DEADLINE_S
        while time.monotonic() < end_s:
            ended = self.process.poll() is not None
            if found := [at_ns for at_ns, line in list(self.said) if text in line]:
                return found[0]
            if ended:
                time.sleep(0.2)  # for the thread that reads
                if not any(text in line for _, line in self.said):
                    break
            time.sleep(0.01)
        raise RuntimeError(f"pspnet run did not say {text!r}: {[line for _, line in self.said]}")

    def ended_ms(self, since_ns: int) -> float:
        """Milliseconds from a moment to its end, waited for."""
        self.process.wait(DEADLINE_S)
        return (time.monotonic_ns() - since_ns) / 1e6


@contextlib.contextmanager
def running(
    *arguments: object, fails_at: int = -1, failure: str = "pass", load: str = "", wrapper: tuple[str, ...] = ()
) -> Iterator[Run]:
    """`pspnet run model.onnx ARGUMENTS` with an engine that only takes its time. failure: Python for one picture, load:
    for the loading. wrapper: a command before it."""
    words = ["run", "model.onnx", *map(str, arguments)]
    code = PROGRAM.format(
        fails_at=fails_at, failure=failure, load=load or "pass", size=SIZE, engine_ms=ENGINE_MS, arguments=words
    )
    process = subprocess.Popen(
        [*wrapper, sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    run = Run(process, [])

    def listen() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            run.said.append((time.monotonic_ns(), line.strip()))

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield run
    finally:
        process.kill()
        process.wait()
        listener.join(5.0)


def programs() -> list[Measured]:
    """All of them."""
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "records.jsonl"
        found = [_signalled(state, lines) for state in SIGNALS]
        return [
            *found, _signalled_twice(lines), _killed(lines), _hung_engine(lines),
            _failed_engine(12, "memory runs out at a picture", "raise MemoryError", lines),
            _failed_engine(13, "an engine that says CUDA error 700", 'raise CudaError("cuLaunchKernel: 700")', lines),
            _refused(12, "the engine finds no memory while it is loaded", lines,
                     load='raise PspnetError("model.engine needs 512 MiB and 100 MiB are free: use a smaller batch")'),
            _port_taken(lines), _no_room(lines),
        ]  # fmt: skip


def _signalled(state: str, lines: Path) -> Measured:
    address, said, later_s, load = SIGNALS[state]
    with running(address, "--jsonl", lines, load=load) as run:
        run.heard(said)
        time.sleep(later_s)
        number = signal.SIGINT if state == "pictures come" else signal.SIGTERM
        found = Measured(18, f"{number.name} while {state}", detect_limit_ms=None, recover_limit_ms=None)
        sent_ns = time.monotonic_ns()
        run.process.send_signal(number)
        found.exit_ms = run.ended_ms(sent_ns)
    return _with_status(found.judge(), run, {130 if number == signal.SIGINT else 0})


def _signalled_twice(lines: Path) -> Measured:
    found = Measured(18, "two SIGTERM while the engine hangs", detect_limit_ms=None, recover_limit_ms=None)
    with running(PATTERN, "--jsonl", lines, fails_at=PICTURE, failure="time.sleep(600)") as run:
        run.heard("fails")
        run.process.terminate()
        time.sleep(0.2)
        sent_ns = time.monotonic_ns()
        run.process.terminate()
        found.exit_ms = run.ended_ms(sent_ns)
    return _with_status(found.judge(), run, {128 + signal.SIGTERM, 0})


def _killed(lines: Path) -> Measured:
    """Cameras' processes end with ours."""
    found = Measured(19, "kill -9 of the whole run: its cameras' processes end", detect_limit_ms=None)
    found.recover_limit_ms = None
    with running(PATTERN, f"{PATTERN}&script=ok 1s; deaf", "--jsonl", lines) as run:
        run.heard("camera1 is stalled")
        children = _children(run.process.pid)
        killed_ns = time.monotonic_ns()
        run.process.kill()
        run.process.wait()
        while any(_alive(pid) for pid in children) and time.monotonic_ns() - killed_ns < 10e9:
            time.sleep(0.01)
        found.exit_ms = (time.monotonic_ns() - killed_ns) / 1e6
    found.found.append(f"{len(children)} processes")
    return found.judge()


def _failed_engine(number: int, made: str, failure: str, lines: Path) -> Measured:
    found = Measured(number, made, detect_limit_ms=None, recover_limit_ms=None)
    lines.unlink(missing_ok=True)
    with running(PATTERN, "--jsonl", lines, fails_at=PICTURE, failure=failure) as run:
        failed_ns = int(_said(run, "fails").split()[1])
        found.exit_ms = run.ended_ms(failed_ns)
    found.judge()
    if (last := _records(lines)[-1])["valid"]:
        found.missed.append("the last record is valid")
    else:
        found.detected_ms = (last["published_ns"] - failed_ns) / 1e6
    return _with_status(found, run, {70})


def _hung_engine(lines: Path) -> Measured:
    """Outputs are told while it hangs; the process ends after the engine's deadline."""
    deadline_ms = 1000 * LiveSettings().engine_deadline_s
    found = Measured(13, f"a call never returns; its deadline is {deadline_ms / 1000:g} s", recover_limit_ms=None)
    found.detect_limit_ms = 1500.0  # a camera that runs and has no result says so after 1 s
    lines.unlink(missing_ok=True)
    with running(PATTERN, "--jsonl", lines, fails_at=PICTURE, failure="time.sleep(600)") as run:
        failed_ns = int(_said(run, "fails").split()[1])
        found.exit_ms = run.ended_ms(failed_ns) - deadline_ms
    told = [each["published_ns"] for each in _records(lines) if each["published_ns"] > failed_ns and not each["valid"]]
    found.detected_ms = (told[0] - failed_ns) / 1e6 if told else None
    found.found.append("exit counts from the deadline")
    return _with_status(found.judge(), run, {70})


def _refused(number: int, made: str, lines: Path, *arguments: object, **options: Any) -> Measured:
    """It ends at once, with exit code 2 and one line."""
    found = Measured(number, made, detect_limit_ms=None, recover_limit_ms=None)
    with running(PATTERN, "--jsonl", lines, *arguments, **options) as run:
        run.process.wait(DEADLINE_S)
    said = [line for _, line in run.said if line.startswith("pspnet: ")]
    if len(said) != 1:
        found.missed.append(f"{len(said)} lines were printed")
    elif not options.get("load"):  # what an engine in place of the real one says is ours
        found.found.append(said[0].removeprefix("pspnet: ").partition(". ")[0])
    return _with_status(found, run, {2})


def _port_taken(lines: Path) -> Measured:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        return _refused(20, "the page's port is in use", lines, "--serve", address)


def _no_room(lines: Path) -> Measured:
    """In a mount namespace of its own, whose /dev/shm is tiny."""
    made = "--shared-labels with 64 KiB of /dev/shm"
    mount = 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"'
    wrapper = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh")
    possible = shutil.which("unshare") and not subprocess.run([*wrapper, "true"], capture_output=True).returncode
    if not possible:
        found = Measured(21, made, detect_limit_ms=None, recover_limit_ms=None)
        found.found.append("not run: unshare may not mount here")
        return found
    return _refused(21, made, lines, "--shared-labels", "faults", wrapper=wrapper)


def _with_status(found: Measured, run: Run, wanted: set[int]) -> Measured:
    code = run.process.returncode
    found.found.insert(0, f"exit {code}")
    if code not in wanted:
        found.missed.append(f"exit code {code}: {run.said[-3:]}")
    if any("Traceback" in line for _, line in run.said):
        found.missed.append("a traceback was printed")
    return found


def _said(run: Run, text: str) -> str:
    at_ns = run.heard(text)
    return next(line for when_ns, line in run.said if when_ns == at_ns and text in line)


def _records(lines: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines.read_text().splitlines()]


def _children(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout
    return [int(line) for line in listed.split()]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
