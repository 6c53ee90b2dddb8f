"""`make gpu-check` on the CUDA and TensorRT doubles: what it writes, and what it lists as not run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu_check, gpu_steps
from pspnet.files import sha256_of
from runtime import kernel_cache
from runtime.passport import Passport, passport_path
from tests import cpu_kernels
from tests.doubles.cuda_driver import CudaDouble, library_folder, reason_unavailable
from tests.doubles.tensorrt_double import install
from tests.nets import ROOT


@pytest.fixture
def gpu(cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CudaDouble:
    """The driver double in this process and in those that it starts; neither has TensorRT, and PyTorch sees no GPU."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library_folder()))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return cuda_double


def checked(folder: Path, *arguments: str) -> tuple[int, dict]:
    """Exit code and the file that was written."""
    target = folder / "gpu.json"
    code = gpu_check.main(["--folder", str(folder / "work"), "--json", str(target), *arguments])
    return code, json.loads(target.read_text())


def only(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """These steps alone."""
    monkeypatch.setattr(gpu_check, "STEPS", {name: gpu_steps.STEPS[name] for name in names})


def test_steps_without_their_library_are_listed(
    gpu: CudaDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    cpu_kernels.without_nvrtc(monkeypatch, tmp_path / "cache")
    code, found = checked(tmp_path)
    assert code == 0 and found["kind"] == "gpu-check"
    assert found["gpu"]["name"] == "CPU double" and found["gpu"]["compute_capability"] == "8.7"
    assert found["gpu"]["cuda"] == "13.0" and found["gpu"]["integrated"] is True
    assert found["libraries"]["tensorrt"].startswith("not installed") and found["libraries"]["numpy"][0].isdigit()
    assert found["command"].startswith("python benchmarks/gpu_check.py") and found["machine"]["cores"] >= 1
    reasons = {name: step["reason"] for name, step in found["steps"].items() if step["outcome"] == "not run"}
    assert list(reasons) == list(gpu_check.STEPS) == ["tests", "kernels", "frame", "torch", "engines", "bench"]
    assert "NVRTC" in reasons["kernels"] and reasons["frame"] == reasons["kernels"]
    assert reasons["torch"].startswith("torch with CUDA: ") and reasons["torch"].endswith(" sees no GPU")
    assert all(step["seconds"] >= 0 for step in found["steps"].values())
    assert (
        reasons["tests"].startswith("a GPU for the tests, all of which say: skipped: ")
        and "TensorRT is not installed" in reasons["engines"]
    )
    assert "an engine to measure" in reasons["bench"]
    assert "engines not run (0 s): TensorRT is not installed" in capsys.readouterr().out


def test_engines_are_built_and_measured(
    gpu: CudaDouble, small_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, "engines", "bench")
    install(monkeypatch, "11.4.0")
    cpu_kernels.keep_in(tmp_path / "cache" / "pspnet-edge" / "kernels", kernel_cache.open_nvrtc("13.0").version)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests" / "doubles" / "tensorrt_11_4"))
    code, found = checked(tmp_path, str(small_onnx), "--rounds", "3", "--frames", "1")
    assert code == 0
    assert {name: step["outcome"] for name, step in found["steps"].items()} == {"engines": "ran", "bench": "ran"}
    engine = tmp_path / "work" / "small.engine"
    assert Passport.load(passport_path(engine)).tensorrt.startswith("11.4.0")
    built = found["steps"]["engines"]["engines"][small_onnx.name]
    assert built["tensorrt"].startswith("11.4.0") and built["command"].startswith(f"pspnet build {small_onnx} -o ")
    (row,) = found["steps"]["bench"]["candidates"]
    assert row["engine"] == "tensorrt" and row["sha256"] == sha256_of(engine)
    assert row["throughput_fps"]["median"] > 0 and 0 <= row["miou"] <= 100
    assert found["steps"]["bench"]["rounds"] == 3


def test_a_step_that_fails_is_told_and_the_others_go_on(
    gpu: CudaDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, "tests", "bench")
    monkeypatch.setattr(gpu_steps, "no_torch", lambda: "")
    monkeypatch.setattr(gpu_steps, "CHECKPOINT", tmp_path / "none.pt")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_one.py").write_text(
        "import pytest\npytestmark = pytest.mark.gpu\ndef test_good(): ...\ndef test_bad(): assert 1 == 2\n"
        "def test_other(): pytest.skip('no such GPU')\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu\n")
    monkeypatch.setattr(gpu_steps, "ROOT", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    code, found = checked(tmp_path)
    assert code == 1
    tests, bench = found["steps"]["tests"], found["steps"]["bench"]
    assert (tests["outcome"], tests["passed"], tests["failed"], tests["skipped"]) == ("failed", 1, 1, 1)
    assert tests["tests"]["tests.test_one.test_bad"] == "failed: assert 1 == 2"
    assert tests["tests"]["tests.test_one.test_other"] == "skipped: no such GPU"
    assert set(tests["shown"]) == set(gpu_steps.CLAIMS) and "passed" not in tests["shown"].values()
    assert bench["outcome"] == "failed" and "none.pt is no file" in bench["reason"]


def test_gpu_tests_need_no_torch_and_those_of_torch_are_skipped(tmp_path: Path) -> None:
    """On a machine with a GPU that nvidia-smi lists and CUDA opens, both doubles here, and without PyTorch."""
    if reason := reason_unavailable():
        pytest.skip(reason)
    (tmp_path / "bin").mkdir()
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'CPU double, 580.1'\n")
    smi.chmod(0o755)
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util, sys\n"
        "sys.modules['torch'], found = None, importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'torch' else found(name, *a)\n"
    )
    environment = {
        **os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(tmp_path),
        "LD_LIBRARY_PATH": str(library_folder()),
    }  # fmt: skip
    # What a kernel of NVRTC is needed for cannot run on the double.
    program = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "-rs", "--color=no"]
    program += ["-k", "torch or a_check or float32", "tests/test_export_gpu.py", "tests/test_runtime_cuda_gpu.py"]
    done = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "test_export_gpu.py needs PyTorch, which is not installed" in done.stdout
    assert "no NVIDIA GPU" not in done.stdout and done.stdout.splitlines()[-1].startswith("5 passed"), done.stdout


def test_without_a_gpu_nothing_is_written(tmp_path: Path) -> None:
    target = tmp_path / "gpu.json"
    program = [sys.executable, ROOT / "benchmarks" / "gpu_check.py", "--folder", tmp_path / "work", "--json", target]
    done = subprocess.run(program, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})
    if done.returncode != 2:
        pytest.skip("this machine has an NVIDIA GPU")
    assert done.stderr.startswith("gpu_check.py: no NVIDIA GPU can be used, so nothing was run and nothing written: ")
    assert done.stderr.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "expected"),
    [("NVIDIA H200", "nvidia-h200"), ("Orin (nvgpu)", "orin-nvgpu"), ("Quadro RTX 4000", "quadro-rtx-4000")],
)  # fmt: skip
def test_the_file_has_the_name_of_the_gpu(name: str, expected: str) -> None:
    assert gpu_check.slug(name) == expected
