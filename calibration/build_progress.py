"""What a build says of its progress: phases of TensorRT as one bar, and the way to cancel it."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from tqdm import tqdm

from pspnet.errors import EndedBySignal, PspnetError

Result = TypeVar("Result")

PERCENT = 100
WAIT_S = 0.2  # between two looks at a build that runs: how late a Ctrl-C may be noticed
ENDING = (signal.SIGTERM, signal.SIGHUP)
"""Of a supervisor or a shutdown, and of a terminal that is closed."""

logger = logging.getLogger(__name__)


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class BuildProgress:
    """The bar of one build. Its methods may be called from any thread, as TensorRT does.

    share: how much of the running phase that has no parent is done, 0..1, never less than before.
    """

    def __init__(self, title: str, quiet: bool = False) -> None:
        self._lock, self._cancelled = threading.Lock(), threading.Event()
        self._phases: dict[str, _Phase] = {}
        self._title, self.share = title, 0.0
        form = "{desc}: {percentage:3.0f}% |{bar}| {elapsed}{postfix}"
        self._bar = tqdm(total=PERCENT, desc=title, bar_format=form, leave=False, disable=quiet)

    @property
    def cancelled(self) -> bool:
        """Whether the build was told to stop."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Ask the build to stop; TensorRT does so at the end of a step. Takes no lock, so a signal handler may."""
        self._cancelled.set()

    def phase_start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins, inside a step of `parent`, or as the first of all where that is None."""
        with self._lock:
            if parent not in self._phases and not self._phases:
                self.share = 0.0
            self._phases[name] = _Phase(parent if parent in self._phases else None, max(steps, 1))
            self._show(name)

    def step_complete(self, name: str, step: int) -> bool:
        """Step `step`, counted from 0, of a phase is done; returns whether the build shall go on."""
        with self._lock:
            if phase := self._phases.get(name):
                phase.done = max(phase.done, step + 1)
            self._show(name)
        return not self.cancelled

    def phase_finish(self, name: str) -> None:
        """A phase is over, with all phases inside it."""
        with self._lock:
            gone = {name}
            while more := {key for key, phase in self._phases.items() if phase.parent in gone} - gone:
                gone |= more
            for key in gone:
                self._phases.pop(key, None)
            self._show("")

    def close(self) -> None:
        """Take the bar away."""
        with self._lock:
            self._bar.close()

    def _show(self, name: str) -> None:
        roots = [key for key, phase in self._phases.items() if phase.parent is None]
        self.share = max([self.share, *map(self._share, roots)])
        if self.cancelled:
            self._bar.set_description_str(f"{self._title}, stops after this step", refresh=False)
        self._bar.set_postfix_str(name[:40], refresh=False)
        self._bar.update(round(self.share * PERCENT, 1) - self._bar.n)

    def _share(self, name: str) -> float:
        """How much of a phase is done, 0..1: its finished steps, and the phase inside it that has got furthest."""
        phase = self._phases[name]
        inside = max((self._share(key) for key, each in self._phases.items() if each.parent == name), default=0.0)
        return min((phase.done + inside) / phase.steps, 1.0)


def progress_monitor(trt: Any, progress: BuildProgress) -> Any:
    """A `trt.IProgressMonitor` that reports to `progress`; an error in it stops the build, and never reaches C++."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)  # without it, a call from C++ ends the process

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            _guarded(progress, progress.phase_start, phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return bool(_guarded(progress, progress.step_complete, phase_name, step))

        def phase_finish(self, phase_name: str) -> None:
            _guarded(progress, progress.phase_finish, phase_name)

    return Monitor()


def cancellable(work: Callable[[], Result], progress: BuildProgress) -> Result:
    """The result of `work`, which reports to `progress`; its exceptions are raised here.

    It runs in a thread of its own: Python handles Ctrl-C in the main thread alone, and only while that runs Python, so
    a build called from there could neither be interrupted nor be ended cleanly. On Ctrl-C, SIGTERM and SIGHUP the build
    is cancelled, and KeyboardInterrupt or EndedBySignal is raised once TensorRT has stopped; a second one changes
    nothing.
    """
    results: list[Result] = []
    errors: list[BaseException] = []
    ended = threading.Event()

    def run() -> None:
        try:
            results.append(work())
        except PspnetError as error:  # carried to the thread that waits, without the frames that hold the builder
            errors.append(error.with_traceback(None))
        except BaseException as error:
            errors.append(error)
        finally:
            ended.set()

    with _interrupts(progress) as interrupted:
        threading.Thread(target=run, name="pspnet build", daemon=True).start()
        while not ended.wait(WAIT_S):
            pass
        with contextlib.suppress(OSError):  # of a terminal that is gone
            progress.close()
    if interrupted:
        raise KeyboardInterrupt if interrupted[0] == signal.SIGINT else EndedBySignal(interrupted[0])
    if errors:
        raise errors[0]
    return results[0]


@contextlib.contextmanager
def ending_signals() -> Iterator[None]:
    """While it lasts, the first SIGTERM or SIGHUP raises EndedBySignal in the main thread, and what follows is ignored.

    Their default ends the process at once, and leaves its temporary files behind.
    """

    def end(number: int, _: Any) -> None:
        for each in ENDING:
            signal.signal(each, signal.SIG_IGN)
        raise EndedBySignal(number)

    with _handled(ENDING, end):
        yield


@contextlib.contextmanager
def _interrupts(progress: BuildProgress) -> Iterator[list[int]]:
    """While it lasts, Ctrl-C, SIGTERM and SIGHUP cancel `progress` and are noted in the list, and nothing is raised.

    An exception could hit between any two lines, and leave a thread behind that builds on.
    """
    noted: list[int] = []

    def note(number: int, _: Any) -> None:
        noted.append(number)
        progress.cancel()

    with _handled((signal.SIGINT, *ENDING), note):
        yield noted


@contextlib.contextmanager
def _handled(numbers: Iterable[int], handler: Callable[[int, Any], None]) -> Iterator[None]:
    """While it lasts, signals go to `handler`; what is ignored stays so, and in other threads nobody gets them."""
    here = threading.current_thread() is threading.main_thread()
    heeded = [each for each in numbers if here and signal.getsignal(each) not in (signal.SIG_IGN, None)]
    before = {each: signal.signal(each, handler) for each in heeded}
    try:
        yield
    finally:
        for each, earlier in before.items():
            signal.signal(each, earlier)


def _guarded(progress: BuildProgress, call: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except Exception:  # TensorRT calls this from C++ code that allows no exception
        logger.exception("the progress of the build cannot be shown")
        progress.cancel()
        return False
