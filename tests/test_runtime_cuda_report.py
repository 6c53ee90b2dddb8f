"""What `pspnet doctor` says of CUDA, with and without a driver, a package and a GPU."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest

from pspnet.cli import main
from pspnet.doctor import MISSING, NOTE, OK, Check
from runtime import cuda_backend, cuda_driver, cuda_report, nvrtc
from tests import cpu_kernels
from tests.doubles.cuda_driver import CudaDouble

ROOT = Path(__file__).parents[1]
NONE = {"pycuda": "pycuda is not installed", "cuda-bindings": "cuda-bindings is not installed"}


def lines() -> dict[str, Check]:
    """The report's lines by name; what is missing must say who needs it and how to get it."""
    found = cuda_report.checks()
    assert all(line.lacks and line.fix for line in found if line.mark == MISSING)
    assert not any("\n" in line.detail + line.fix for line in found)
    return {line.name: line for line in found}


@pytest.fixture(params=[True, False], ids=["with", "without"])
def has_gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the machine has an NVIDIA GPU, as far as nvidia-smi and the board's name say."""
    monkeypatch.setattr(cuda_report, "has_nvidia_gpu", lambda: request.param)
    return request.param


def test_a_machine_that_has_everything(cuda_double: CudaDouble, has_gpu: bool, tmp_path: Path) -> None:
    found = lines()
    used = cuda_backend.backend_name()
    assert used and found[used].mark == OK
    assert found[used].detail == f"{importlib.metadata.version(used)}, in use"
    assert found["driver"].mark == OK
    assert found["GPU 0"].detail == "CPU double, sm_87, 8.0 of 8.0 GiB free, shared with the CPU, CUDA 13.0"
    assert not cuda_double.live()
    assert main(["doctor", "--json", str(tmp_path / "d.json")]) == 0
    stored = {check["name"]: check for check in json.loads((tmp_path / "d.json").read_text())["checks"]}
    assert stored["GPU 0"]["topic"] == "CUDA" and stored[used]["mark"] == "ok"


def test_two_gpus_are_two_lines(cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_DOUBLE_DEVICES", "2")
    assert {"GPU 0", "GPU 1"} <= set(lines())


def test_without_a_driver(has_gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_driver, "LIBRARY", "libcuda-of-nobody.so.1")
    found = lines()
    assert found["driver"].mark == (MISSING if has_gpu else NOTE) and "GPU 0" not in found
    assert "no NVIDIA driver here" in found["driver"].detail
    assert ("nvidia-jetpack" in found["driver"].fix) == has_gpu


def test_without_a_package(cuda_double: CudaDouble, has_gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_backend, "_imported", lambda name: (None, NONE[name]))
    found = lines()
    assert (found["pycuda"].mark, found["cuda-bindings"].mark) == (NOTE, MISSING if has_gpu else NOTE)
    assert found["cuda-bindings"].detail.startswith("not installed")
    assert "pip install cuda-bindings" in found["cuda-bindings"].fix and "JetPack 6" in found["cuda-bindings"].fix
    assert "pspnet-edge[pycuda]" in found["pycuda"].fix and "nvidia-jetpack" in found["pycuda"].fix
    assert "GPU 0" not in found


def test_one_package_is_enough(cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    imported = cuda_backend._imported
    monkeypatch.setattr(
        cuda_backend, "_imported", lambda name: (None, NONE[name]) if name == "pycuda" else imported(name)
    )
    found = lines()
    assert found["pycuda"].mark == NOTE and found["pycuda"].detail == "not installed; cuda-bindings does its work"
    assert found["cuda-bindings"].detail.endswith("in use") and found["GPU 0"].mark == OK


def test_a_gpu_that_does_not_open(cuda_double: CudaDouble, has_gpu: bool) -> None:
    cuda_double.fail_call("cuDevicePrimaryCtxRetain", 46)
    line = lines()["GPU 0"]
    assert line.mark == (MISSING if has_gpu else NOTE) and "CUDA_ERROR_DEVICE_UNAVAILABLE" in line.detail


def test_a_wrong_choice_is_a_line(cuda_double: CudaDouble, has_gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PSPNET_CUDA_BACKEND", "opencl")
    found = lines()
    assert found["backend"].mark == (MISSING if has_gpu else NOTE) and "opencl" in found["backend"].detail


class Compiler:
    """An NVRTC of CUDA 13.2 that knows two GPUs."""

    version = 13, 2

    def architectures(self) -> list[int]:
        return [87, 90]


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """`Compiler` in place of what this machine has; the folder of the cache."""
    monkeypatch.setattr(nvrtc, "open_nvrtc", lambda driver_version: Compiler())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "pspnet-edge" / "kernels"


def test_the_compiler_knows_the_gpu(cuda_double: CudaDouble, has_gpu: bool, compiler: Path) -> None:
    line = lines()["NVRTC"]
    assert line.mark == OK
    assert line.detail == f"13.2, for sm_87 to sm_90, with this machine's sm_87; kernels are kept in {compiler}"


def test_a_compiler_without_a_gpu(has_gpu: bool, compiler: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_driver, "LIBRARY", "libcuda-of-nobody.so.1")
    line = lines()["NVRTC"]
    assert (line.mark, line.detail) == (OK, f"13.2, for sm_87 to sm_90; kernels are kept in {compiler}")


def test_a_compiler_that_does_not_know_the_gpu(
    cuda_double: CudaDouble, has_gpu: bool, compiler: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_DOUBLE_COMPUTE_CAPABILITY", "11.0")
    cuda_double.reset()
    line = lines()["NVRTC"]
    assert line.mark == MISSING and line.detail.endswith("knows sm_87 to sm_90, and this GPU is sm_110")
    assert line.fix == "Install NVRTC and a driver of a newer CUDA, which knows it" and "CPU" in line.lacks


def test_without_a_compiler(
    cuda_double: CudaDouble, has_gpu: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cpu_kernels.without_nvrtc(monkeypatch, tmp_path)
    line = lines()["NVRTC"]
    assert line.mark == MISSING and "there is none here" in line.detail
    for fix in ("apt-get install nvidia-jetpack", "cuda-nvrtc-13-0", "pip install nvidia-cuda-nvrtc,"):
        assert fix in line.fix
    cpu_kernels.keep_in(tmp_path / "pspnet-edge" / "kernels", (13, 0))
    line = lines()["NVRTC"]
    assert line.mark == NOTE and "not needed as long as the kernels are in" in line.detail and line.fix


def test_without_a_compiler_and_a_gpu(has_gpu: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cpu_kernels.without_nvrtc(monkeypatch, tmp_path)
    monkeypatch.setattr(cuda_driver, "LIBRARY", "libcuda-of-nobody.so.1")
    line = lines()["NVRTC"]
    assert line.mark == (MISSING if has_gpu else NOTE) and line.detail.startswith("not installed")
    assert "nvidia-jetpack" in line.fix and "nvidia-cuda-nvrtc-cu12" in line.fix


def test_doctor_runs_without_numpy() -> None:
    code = "import sys; sys.modules['numpy'] = None; from pspnet.cli import main; sys.exit(main(['doctor']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Engines" in done.stdout and "CUDA\n" not in done.stdout
