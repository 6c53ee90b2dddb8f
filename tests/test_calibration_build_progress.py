"""The bar of a build, and Ctrl-C while TensorRT holds the process."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from types import SimpleNamespace

import pytest

from calibration.build_progress import BuildProgress, cancellable, progress_monitor

LONG_S = 10.0  # a build that is not cancelled


def test_share_counts_phases_inside_a_step_and_never_falls() -> None:
    progress = BuildProgress("build", quiet=True)
    seen = []
    progress.phase_start("network", None, 2)
    progress.phase_start("timing", "network", 4)
    for step in range(4):
        assert progress.step_complete("timing", step)
        seen.append(progress.share)
    progress.phase_finish("timing")
    seen.append(progress.share)
    progress.step_complete("network", 0)
    seen.append(progress.share)
    progress.step_complete("network", 1)
    assert seen == [0.125, 0.25, 0.375, 0.5, 0.5, 0.5] and progress.share == 1
    progress.phase_finish("network")
    progress.phase_start("another network", None, 2)
    assert progress.share == 0
    progress.close()


def test_finishing_a_phase_ends_those_inside_it_and_unknown_ones_do_no_harm() -> None:
    progress = BuildProgress("build", quiet=True)
    for name, parent in (("a", None), ("b", "a"), ("c", "b")):
        progress.phase_start(name, parent, 10)
    progress.phase_finish("a")
    assert progress.step_complete("c", 5) and progress.share == 0
    progress.phase_start("alone", "never begun", 0)
    assert progress.step_complete("alone", 0) and progress.share == 1
    progress.close()


def test_many_threads_may_report_at_once() -> None:
    progress = BuildProgress("build")
    progress.phase_start("network", None, 8)

    def report(number: int) -> None:
        name = f"graph {number}"
        progress.phase_start(name, "network", 50)
        for step in range(50):
            progress.step_complete(name, step)
            if random.Random(step).random() < 0.1:
                time.sleep(0)
        progress.phase_finish(name)
        progress.step_complete("network", number)

    threads = [threading.Thread(target=report, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert progress.share == 1
    progress.close()


def test_an_error_in_the_bar_stops_the_build_and_reaches_no_native_code(caplog: pytest.LogCaptureFixture) -> None:
    class Base:
        pass

    progress = BuildProgress("build", quiet=True)
    monitor = progress_monitor(SimpleNamespace(IProgressMonitor=Base), progress)
    monitor.phase_start("network", None, 2)
    assert monitor.step_complete("network", 0) is True
    assert monitor.step_complete("network", "no number") is False
    assert progress.cancelled and "progress of the build cannot be shown" in caplog.text
    progress.close()


def test_ctrl_c_cancels_a_build_that_runs_no_python_in_the_main_thread() -> None:
    progress = BuildProgress("build", quiet=True)
    started = time.monotonic()
    went_on: list[bool] = []

    def work() -> str:
        assert threading.current_thread() is not threading.main_thread()
        progress.phase_start("network", None, 1000)
        os.kill(os.getpid(), signal.SIGINT)
        for step in range(1000):
            time.sleep(LONG_S / 1000)
            if not progress.step_complete("network", step):
                break
        went_on.append(True)  # the build ends by itself before anybody is told
        return "plan"

    with pytest.raises(KeyboardInterrupt):
        cancellable(work, progress)
    assert went_on and time.monotonic() - started < LONG_S / 2


def test_results_and_errors_come_back() -> None:
    assert cancellable(lambda: 7, BuildProgress("build", quiet=True)) == 7
    with pytest.raises(ZeroDivisionError):
        cancellable(lambda: 1 // 0, BuildProgress("build", quiet=True))
