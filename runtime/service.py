"""The manners of a program that runs for months: signals in every state, what systemd is told, how it ends.

The work runs in a thread of its own, so that a signal is heeded while a library loads an engine or hangs.

SIGINT ends with 130, SIGTERM with 0 and SIGHUP, of a terminal or an ssh connection that is gone, with 129, all with
everything flushed and within 2 s: what has not ended by then is left behind. A second signal ends the program at once,
unless it is SIGHUP. Where SIGHUP is ignored from the start on, as under nohup, it stays so.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from runtime.systemd import ServiceWatchdog, notify

TICK_S = 0.1
STOP_LIMIT_S = 1.8
LOAD_LIMIT_S = 0.1
"""The same while the engine is loading, which cannot be broken off, and after which nothing is left unfinished."""
STATUS_S = 5.0
EXITS = {signal.SIGINT: 130, signal.SIGTERM: 0, signal.SIGHUP: 129}
"""Signal -> exit code of a run that it ended: an operator's Ctrl-C is told apart, and so is a terminal that is gone,
which nobody meant as a stop; a supervisor's SIGTERM is fine."""


class Progress:
    """What the work tells about itself. frames: segmented since the start; status: one line, without credentials."""

    def __init__(self) -> None:
        self.frames: Callable[[], int] = lambda: 0
        self.status: Callable[[], str] = lambda: "the engine is loading"
        self.is_ready = self.is_loading = False

    @contextmanager
    def loading(self) -> Iterator[None]:
        """The engine is loading inside of the block, and nothing is there yet that a stop must end in order."""
        self.is_loading = True
        try:
            yield
        finally:
            self.is_loading = False

    def ready(self, frames: Callable[[], int], status: Callable[[], str]) -> None:
        """The engine is loaded and the cameras have been started; both are called from another thread."""
        self.frames, self.status, self.is_ready = frames, status, True


def run_as_service(
    work: Callable[[threading.Event, Progress], object],
    environment: Mapping[str, str] = os.environ,
    leave: Callable[[int], Any] = os._exit,
) -> int:
    """Call `work(stop, progress)`, which returns soon after `stop` is set, and mind signals; returns the exit code.

    An exception of the work is raised here. leave: ends the program where the work does not.
    """
    stop, done, progress = threading.Event(), threading.Event(), Progress()
    errors: list[BaseException] = []
    received: list[int] = []

    def working() -> None:
        try:
            work(stop, progress)
        except BaseException as error:  # raised again where the command line explains it
            errors.append(error)
        finally:
            done.set()

    def heed(number: int, _: object) -> None:
        if number == signal.SIGHUP:
            _let_go_of_terminal()
            if received:  # shell and kernel each send one, and systemd one after SIGTERM: nobody is impatient
                return
        if received:
            leave(128 + number)
        received.append(number)
        stop.set()

    thread = threading.Thread(target=working, name="run", daemon=True)
    with _handled(heed, EXITS):
        thread.start()
        _attend(done, stop, progress, environment)
    if not done.is_set():
        what = "something did not end within 2 s and was left behind"
        if progress.is_loading:
            what = "stopped while the engine was loading"
        print(f"pspnet: {what}", file=sys.stderr)
        sys.stdout.flush()
        leave(EXITS[signal.Signals(received[0])] if received else 0)
    thread.join()
    if errors and not (received and isinstance(errors[0], KeyboardInterrupt)):
        raise errors[0]
    return EXITS[signal.Signals(received[0])] if received else 0


def _attend(done: threading.Event, stop: threading.Event, progress: Progress, environment: Mapping[str, str]) -> None:
    """Keep systemd informed until the work is done, or has had its time after a stop."""
    watchdog = ServiceWatchdog(environment)
    was_ready, told, told_s, stopped_s = False, "", 0.0, 0.0
    while not done.wait(TICK_S):
        now_s = time.monotonic()
        if stop.is_set():
            if not stopped_s:
                stopped_s = now_s
                notify("STOPPING=1", environment)
            if now_s - stopped_s > (LOAD_LIMIT_S if progress.is_loading else STOP_LIMIT_S):
                return
            continue
        if progress.is_ready:
            if not was_ready:
                was_ready = notify("READY=1", environment) or True
            watchdog.see(progress.frames())
        if now_s - told_s >= STATUS_S and (status := progress.status()) != told:
            told, told_s = status, now_s
            notify(f"STATUS={status}", environment)


@contextmanager
def leaving_at_once(leave: Callable[[int], Any] = os._exit) -> Iterator[None]:
    """While it lasts, SIGTERM and SIGHUP end the program at once with the exit codes of a run that they ended.

    For what comes before `run_as_service`, when nothing has begun that must end in order.
    """

    def end(number: int, _: object) -> None:
        with contextlib.suppress(Exception):  # the signal may come in the middle of a print
            sys.stdout.flush()
        leave(EXITS[signal.Signals(number)])

    with _handled(end, (signal.SIGTERM, signal.SIGHUP)):
        yield


def _let_go_of_terminal() -> None:
    """Send what is printed from now on to nowhere, as far as nobody is left to read it: a print would be an error."""
    poll = select.poll()
    for descriptor in (1, 2):
        poll.register(descriptor, 0)
    for descriptor, event in poll.poll(0):
        if event & (select.POLLHUP | select.POLLERR):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)


@contextmanager
def _handled(heed: Callable[[int, object], None], numbers: Iterable[signal.Signals]) -> Iterator[None]:
    ours = [each for each in numbers if each != signal.SIGHUP or signal.getsignal(each) != signal.SIG_IGN]
    before = {number: signal.signal(number, heed) for number in ours}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
