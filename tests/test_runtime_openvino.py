"""OpenVINO leaves the process as it found it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_signals_are_survived_after_runners_have_gone_in_any_order(small_onnx: Path) -> None:
    code = (
        "import gc, signal, sys; from runtime.openvino_runner import OpenVinoRunner; "
        "signal.signal(signal.SIGINT, lambda *_: print('handled')); "
        "a, b = OpenVinoRunner(sys.argv[1], 1), OpenVinoRunner(sys.argv[1], 1); "
        "a.close(); del a; gc.collect(); b.close(); del b; gc.collect(); signal.raise_signal(signal.SIGINT)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(small_onnx)], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "handled"), done.stderr
