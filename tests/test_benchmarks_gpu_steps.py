"""The steps of `make gpu-check` that measure: dry-run on the doubles, their limits, and what the tests have shown."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import frame_cost, gpu_check, gpu_steps, kernel_floor, torch_floor
from benchmarks.gpu_steps import CLAIMS, STEPS, Check, Failed, Missing, shown_by
from tests import benchmarks_on_cpu
from tests.doubles.cuda_driver import CudaDouble
from tests.nets import ROOT

PROGRAMS = {
    "kernel_floor": (kernel_floor, ["--size", "64x128", "--classes", "5"]),
    "frame_cost": (frame_cost, ["--size", "64x128", "--classes", "5", "--frames", "3"]),
    "torch_floor": (torch_floor, ["--backbone", "mobilenet_v2", "--size", "96x128", "--output-stride", "16"]),
}


@pytest.fixture
def in_this_process(
    cuda_double: CudaDouble, one_thread: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Check:
    """Programs run here, small, with all that a GPU has replaced."""
    benchmarks_on_cpu.kernels_on_cpu(monkeypatch, tmp_path)
    benchmarks_on_cpu.torch_on_cpu(monkeypatch)

    def run(*command: str) -> None:
        program, small = PROGRAMS[Path(command[1]).stem]
        if code := program.main([*command[2:], *small]):
            raise Failed(f"exit code {code}")

    monkeypatch.setattr(gpu_steps, "run", run)
    monkeypatch.setattr(gpu_steps, "need_kernels", lambda: None)
    return Check(tmp_path, (), 3, 1)


def outcome(name: str, check: Check) -> dict[str, Any]:
    return gpu_check.outcome(name, STEPS[name], check)


@pytest.mark.parametrize(("name", "figures"), [("kernels", "stages"), ("frame", "frames"), ("torch", "forms")])
def test_a_benchmark_is_run_and_read(name: str, figures: str, in_this_process: Check) -> None:
    found = outcome(name, in_this_process)
    assert found["outcome"] in ("ran", "failed") and found[figures] and found["rounds"] == 3
    assert found.get("reason", "may").count("may")  # on a CPU the limits say nothing, so they may be missed
    assert found["command"].startswith("python benchmarks/")
    assert not set(found) & {"machine", "gpu", "kind"}


def test_every_program_that_is_run_is_there() -> None:
    assert all((ROOT / "benchmarks" / f"{name}.py").is_file() for name in PROGRAMS)


@pytest.mark.parametrize(
    ("ratios", "outcome_", "reason"),
    [
        ([1.2, 2.9], "ran", ""),
        ([1.6, 2.9], "failed", "preprocess bgr takes 1.60 times its floor, and may take 1.5"),
        ([1.6, 3.1], "failed", "may take 1.5; labels takes 3.10 times its floor, and may take 3"),
        ([None, 1.0], "ran", ""),
    ],
)
def test_a_kernel_over_its_limit_fails(
    ratios: list[float | None], outcome_: str, reason: str, in_this_process: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = [
        {"name": "preprocess bgr", "ratio": ratios[0], "limit": 1.5},
        {"name": "labels", "ratio": ratios[1], "limit": 3.0},
        {"name": "overlay", "ratio": 9.0, "limit": None},
    ]
    monkeypatch.setattr(gpu_steps, "script", lambda check, name: {"stages": stages})
    found = outcome("kernels", in_this_process)
    assert found["outcome"] == outcome_ and reason in found.get("reason", "") and found["stages"] == stages


def test_a_frame_over_its_limit_fails(in_this_process: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    def frames(camera_ms: float) -> list[dict[str, Any]]:
        return [
            {"format": "nv12", "memory": "camera", "frame_ms": {"median": camera_ms}, "limit_ms": 0.5},
            {"format": "nv12", "memory": "elsewhere", "frame_ms": {"median": 2.0}, "limit_ms": None},
        ]

    for camera_ms, expected in ((0.499, "ran"), (0.501, "failed")):
        monkeypatch.setattr(gpu_steps, "script", lambda check, name, ms=camera_ms: {"frames": frames(ms)})
        found = outcome("frame", in_this_process)
        assert found["outcome"] == expected
    assert found["reason"] == "a frame in nv12 costs 0.501 ms, and may cost 0.5"


def test_a_program_that_fails_is_told(in_this_process: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_floor, "gpu_facts", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        outcome("kernels", in_this_process)
    monkeypatch.setattr(PROGRAMS["frame_cost"][0], "main", lambda arguments: 2)
    assert outcome("frame", in_this_process)["reason"] == "exit code 2"


def test_what_is_missing_is_said(cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu_steps, "find_spec", lambda name: None)
    for name, said in (("kernels", "cv2"), ("frame", "cv2"), ("torch", "torch"), ("tests", "pytest")):
        with pytest.raises(Missing, match=f"^{said}: pip install"):
            STEPS[name](Check(tmp_path, (), 3, 1))


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ({"a.test_x[p]": "passed", "a.test_y[p]": "passed", "a.test_x[q]": "failed: no"}, "passed"),
        ({"a.test_x[p]": "passed", "a.test_y[p]": "skipped: none"}, "skipped: none"),
        ({"a.test_x[p]": "failed: 1", "a.test_y[p]": "passed"}, "failed: 1"),
        ({"a.test_x[p]": "passed"}, "no test is named test_y[p]"),
    ],
)
def test_what_the_tests_show(states: dict[str, str], expected: str) -> None:
    assert shown_by(states, ("test_x[p]", "test_y[p]")) == expected


def test_a_claim_over_several_tests_needs_one_that_ran_and_none_that_failed() -> None:
    both = {"a.test_x[p]": "skipped: p is not installed", "a.test_x[q]": "passed"}
    assert shown_by(both, ("test_x",)) == "passed"
    assert shown_by({**both, "a.test_x[r]": "failed: no"}, ("test_x",)) == "failed: no"


def test_every_claim_is_of_tests_that_exist() -> None:
    """As pytest collects and names them, with each parameter."""
    files = [path for path in gpu_steps.files_with_gpu_tests() if "cuda" in path or "kernels" in path]
    program = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "gpu", *files]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
    named = [line.replace("/", ".").replace(".py::", ".") for line in done.stdout.splitlines() if "::" in line]
    for claim, parts in CLAIMS.items():
        assert all(any(part in name for name in named) for part in parts), claim
