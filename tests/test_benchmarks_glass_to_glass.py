"""Ages and drops at a viewer: the arithmetic on made-up runs, and one real run of `pspnet run` with its page."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.glass_to_glass import Seen, figures
from pspnet.errors import PspnetError

ROOT = Path(__file__).parents[1]
MS = 1_000_000


def test_ages_are_from_read_to_decoding_and_drops_are_told_apart() -> None:
    # Numbers 10 to 16 were drawn; 11 and 14 were never labelled; the viewer missed 13 and 15.
    records = {sequence: {"captured_ns": sequence * 30 * MS} for sequence in (0, 2, 3, 5, 6)}
    seen = [Seen(sequence, sequence + 10, (sequence * 30 + 40 + sequence) * MS) for sequence in (0, 2, 6)]
    result = figures(seen, records)
    assert (result["pictures"], result["numbers"]) == (3, 7)
    assert result["drops"] == {"before_labels": 2, "after_labels": 2}
    assert result["age_ms"]["p50"] == pytest.approx(42.0) and 45.5 < result["age_ms"]["p99"] <= 46.0


def test_a_number_that_is_not_that_of_its_record_is_an_error() -> None:
    records = {0: {"captured_ns": 0}, 1: {"captured_ns": 0}}
    with pytest.raises(PspnetError, match=r"numbers are \[10, 11\] from their records' sequence"):
        figures([Seen(0, 10, 0), Seen(1, 12, 0)], records)


def test_too_few_pictures_are_said() -> None:
    with pytest.raises(PspnetError, match="0 numbered pictures reached the viewer"):
        figures([Seen(5, 5, 0)], {})


def test_a_real_run_is_measured(small_onnx: Path, tmp_path: Path) -> None:
    told = tmp_path / "x.json"
    command = [sys.executable, "benchmarks/glass_to_glass.py", str(small_onnx), "--seconds", "1.5", "--fps", "20"]
    done = subprocess.run([*command, "--json", str(told)], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    result = json.loads(told.read_text())
    assert result["pictures"] >= 2 and 0 < result["age_ms"]["p50"] < 5000
    assert (
        result["numbers"] == result["pictures"] + sum(result["drops"].values()) and min(result["drops"].values()) >= 0
    )


def test_an_artefact_that_cannot_be_run_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/glass_to_glass.py", str(tmp_path / "none.onnx")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "none.onnx" in done.stderr
