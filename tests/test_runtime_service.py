"""Signals, systemd's messages and exit codes of a run, in this process and with injected clocks."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import service
from runtime.service import Progress, leaving_at_once, run_as_service
from runtime.systemd import ServiceWatchdog, notify

PATIENCE_S = 20.0  # a loaded machine


class Systemd:
    """The socket of NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self.environment = {"NOTIFY_SOCKET": str(path)}

    def heard(self, wait_s: float = 0.05) -> list[str]:
        """The messages that have come and come within `wait_s` of each other."""
        self._socket.settimeout(wait_s)
        found = []
        try:
            while True:
                found.append(self._socket.recv(4096).decode())
        except TimeoutError:
            return found

    def wait_for(self, message: str) -> None:
        """Returns when the message comes; the others are lost."""
        self._socket.settimeout(PATIENCE_S)
        while self._socket.recv(4096).decode() != message:
            pass

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    listener = Systemd(tmp_path / "notify")
    yield listener
    listener.close()


def test_notify_reaches_a_path_and_an_abstract_socket(systemd: Systemd) -> None:
    assert notify("READY=1", systemd.environment)
    assert systemd.heard() == ["READY=1"]
    name = f"@pspnet-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name[1:])
        assert notify("STOPPING=1", {"NOTIFY_SOCKET": name})
        assert listener.recv(100) == b"STOPPING=1"


@pytest.mark.parametrize("address", ["", "relative", "/gone/away"])
def test_notify_is_silent_where_nobody_listens(address: str) -> None:
    assert not notify("READY=1", {"NOTIFY_SOCKET": address})
    assert not notify("READY=1", {})


def test_the_watchdog_is_fed_only_while_frames_progress(systemd: Systemd) -> None:
    now = [100.0]
    environment = {**systemd.environment, "WATCHDOG_USEC": "10000000", "WATCHDOG_PID": str(os.getpid())}
    watchdog = ServiceWatchdog(environment, lambda: now[0])
    assert not watchdog.see(0)  # no frame yet
    assert watchdog.see(1)
    assert not watchdog.see(2)  # not due
    now[0] += 5
    assert watchdog.see(3)
    for _ in range(5):  # the engine hangs, or no camera gives anything
        now[0] += 5
        assert not watchdog.see(3)
    assert watchdog.see(4)
    assert systemd.heard() == ["WATCHDOG=1"] * 3


@pytest.mark.parametrize("limits", [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "5000000", "WATCHDOG_PID": "1"}])
def test_no_watchdog_unless_it_is_meant_for_us(systemd: Systemd, limits: dict[str, str]) -> None:
    watchdog = ServiceWatchdog({**systemd.environment, **limits})
    assert not watchdog.see(1) and systemd.heard() == []


def stopped_by(number: int, systemd: Systemd) -> int:
    """The exit code of a run that gets a signal after READY=1."""

    def work(stop: threading.Event, progress: Progress) -> None:
        progress.ready(lambda: 1, lambda: "front running 30.0 fps")
        assert stop.wait(PATIENCE_S)

    def sending() -> None:
        systemd.wait_for("READY=1")
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=sending)
    sender.start()
    code = run_as_service(work, systemd.environment)
    sender.join()
    return code


@pytest.fixture
def with_terminal() -> Iterator[None]:
    """SIGHUP as in a shell, however the tests were started."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("with_terminal")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0), (signal.SIGHUP, 129)])
def test_signals_end_the_run(number: int, code: int, systemd: Systemd) -> None:
    before = signal.getsignal(number)
    assert stopped_by(number, systemd) == code
    assert signal.getsignal(number) is before


def test_what_systemd_is_told(systemd: Systemd) -> None:
    told: list[str] = []

    def work(stop: threading.Event, progress: Progress) -> None:
        progress.ready(lambda: 7, lambda: "front running 30.0 fps")
        time.sleep(0.3)
        stop.set()
        time.sleep(0.3)

    environment = {**systemd.environment, "WATCHDOG_USEC": "30000000"}
    assert run_as_service(work, environment) == 0
    told = systemd.heard()
    assert told.index("READY=1") < told.index("WATCHDOG=1") < told.index("STOPPING=1")
    assert "STATUS=front running 30.0 fps" in told


def test_an_error_of_the_work_is_raised() -> None:
    def work(stop: threading.Event, progress: Progress) -> None:
        raise ValueError("ours")

    with pytest.raises(ValueError, match="ours"):
        run_as_service(work, {})


def test_what_does_not_end_is_left_behind(capsys: pytest.CaptureFixture) -> None:
    released, codes = threading.Event(), []

    def hangs(stop: threading.Event, progress: Progress) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        released.wait(PATIENCE_S)

    def leave(code: int) -> None:
        codes.append(code)
        released.set()

    start_s = time.monotonic()
    run_as_service(hangs, {}, leave)
    assert codes == [0] and 1.5 < time.monotonic() - start_s < PATIENCE_S
    assert "left behind" in capsys.readouterr().err


def test_a_stop_while_the_engine_loads_is_not_kept_waiting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(service, "STOP_LIMIT_S", 2 * PATIENCE_S)  # so that only the load's own limit can end this
    released, codes = threading.Event(), []

    def loads(stop: threading.Event, progress: Progress) -> None:
        with progress.loading():
            os.kill(os.getpid(), signal.SIGTERM)
            released.wait(2 * PATIENCE_S)

    def leave(code: int) -> None:
        codes.append(code)
        released.set()

    start_s = time.monotonic()
    run_as_service(loads, {}, leave)
    assert codes == [0] and time.monotonic() - start_s < PATIENCE_S
    assert capsys.readouterr().err == "pspnet: stopped while the engine was loading\n"


def test_what_must_end_in_order_is_waited_for_once_the_engine_is_loaded() -> None:
    ended: list[bool] = []

    def works(stop: threading.Event, progress: Progress) -> None:
        with progress.loading():
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(PATIENCE_S)
        time.sleep(5 * service.LOAD_LIMIT_S)  # sinks that flush
        ended.append(True)

    assert run_as_service(works, {}) == 0 and ended == [True]


def test_a_second_signal_leaves_at_once() -> None:
    released, codes = threading.Event(), []

    def hangs(stop: threading.Event, progress: Progress) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.wait(PATIENCE_S)
        os.kill(os.getpid(), signal.SIGTERM)
        released.wait(PATIENCE_S)

    def leave(code: int) -> None:
        codes.append(code)
        released.set()

    start_s = time.monotonic()
    run_as_service(hangs, {}, leave)
    assert codes[0] == 128 + signal.SIGTERM and time.monotonic() - start_s < 1.5


@pytest.mark.usefixtures("with_terminal")
@pytest.mark.parametrize(("first", "code"), [(signal.SIGHUP, 129), (signal.SIGTERM, 0)])
def test_a_terminal_that_closes_may_say_so_again(first: int, code: int) -> None:
    ended: list[bool] = []

    def works(stop: threading.Event, progress: Progress) -> None:
        os.kill(os.getpid(), first)
        assert stop.wait(PATIENCE_S)
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(5 * service.TICK_S)  # sinks that flush
        ended.append(True)

    left: list[int] = []
    assert run_as_service(works, {}, left.append) == code and ended == [True] and left == []


def test_what_ignores_the_terminal_goes_on(with_terminal: None) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup

    def works(stop: threading.Event, progress: Progress) -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not stop.wait(5 * service.TICK_S)

    with leaving_at_once():
        assert run_as_service(works, {}) == 0
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGHUP, 129)])
def test_a_signal_before_the_work_ends_the_program(number: int, code: int, with_terminal: None) -> None:
    left: list[int] = []
    before = signal.getsignal(number)
    with leaving_at_once(left.append):
        os.kill(os.getpid(), number)
        assert left == [code]
        assert run_as_service(lambda stop, progress: os.kill(os.getpid(), number), {}) == code
    assert left == [code] and signal.getsignal(number) is before
