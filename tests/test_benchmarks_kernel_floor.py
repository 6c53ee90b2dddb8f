"""benchmarks/kernel_floor.py: what it writes, on the CUDA driver double, and that it refuses where there is no GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import kernel_floor
from benchmarks.kernel_stages import frame_stages
from pspnet.errors import PspnetError
from runtime.cuda import open_device
from runtime.kernel_cache import OPTIONS
from runtime.nvrtc import open_nvrtc
from tests import benchmarks_on_cpu
from tests.benchmarks_on_cpu import FLOOR_KERNELS
from tests.doubles.cuda_driver import CudaDouble
from tests.nets import ROOT

BANDWIDTHS_GB_PER_S = (68, 204.8, 3350)


@pytest.fixture
def on_cpu(cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CudaDouble:
    """The double with all kernels as g++ makes them, and a benchmark that repeats nothing."""
    benchmarks_on_cpu.kernels_on_cpu(monkeypatch, tmp_path)
    return cuda_double


def test_every_stage_has_a_floor_and_its_bytes(
    on_cpu: CudaDouble, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    target = tmp_path / "kernels.json"
    assert kernel_floor.main(["--size", "64x128", "--classes", "5", "--rounds", "3", "--json", str(target)]) == 0
    found = json.loads(target.read_text())
    assert found["kind"] == "kernel-floor" and found["gpu"]["name"] == "CPU double" and "command" in found
    stages = {stage["name"]: stage for stage in found["stages"]}
    assert {"preprocess bgr", "preprocess nv12", "labels", "confidence", "overlay", "class counts"} <= set(stages)
    assert stages["preprocess nv12 of 1080x1920"]["read_bytes"] == 1080 * 1920 * 3 // 2
    assert stages["labels"]["read_bytes"] == 5 * 8 * 16 * 2 and stages["labels"]["written_bytes"] == 64 * 128
    assert stages["labels"]["limit"] == 3 and stages["preprocess bgr"]["limit"] == 1.5
    assert 0 < found["uniform_share"] < 1
    for stage in stages.values():
        assert stage["floor_us"] == max(stage["floors_us"].values()) == stage["floors_us"][stage["floor_is"]]
    shown = capsys.readouterr().out
    assert all(name in shown for name in stages) and "uniform share" in shown
    assert not on_cpu.live()


def test_the_documented_floors_are_those_of_the_stages(on_cpu: CudaDouble) -> None:
    """docs/performance.md: bytes, operations, and bytes over the bandwidth of three GPUs."""
    lines = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8").splitlines()
    table = {cells[1]: cells[2:8] for line in lines if len(cells := [cell.strip() for cell in line.split("|")]) == 12}
    with open_device() as device:
        stages, share = frame_stages(device, device.stream(), (1024, 2048), 19)
    assert f"here {share:.0%}".replace("%", " %") in "\n".join(lines)
    assert set(table) == {"stage", "---", *(stage.name for stage in stages)}
    for stage in stages:
        moved = stage.read_bytes + stage.written_bytes
        expected = [
            f"{stage.read_bytes / 1e6:.2f}",
            f"{stage.written_bytes / 1e6:.2f}",
            f"{stage.operations / 1e6:.0f}",
        ]
        expected += [f"{moved / (1e3 * bandwidth):.1f}" for bandwidth in BANDWIDTHS_GB_PER_S]
        assert table[stage.name] == expected, stage.name


def test_the_floors_own_kernels_compile() -> None:
    try:
        compiler = open_nvrtc("13.2")
    except PspnetError as error:
        pytest.skip(f"no NVRTC: {error}")
    code = compiler.cubin(kernel_floor.SOURCE, "kernel_floor.cu", ("--gpu-architecture=sm_90", *OPTIONS))
    assert {f".text.{kernel}".encode() in code for kernel in FLOOR_KERNELS} == {True}


@pytest.mark.parametrize("wrong", [["--size", "63x128"], ["--classes", "0"], ["--classes", "256"], ["--rounds", "0"]])
def test_what_cannot_be_measured_is_refused(wrong: list[str], capsys: pytest.CaptureFixture) -> None:
    assert kernel_floor.main(wrong) == 2
    said = capsys.readouterr().err
    assert "needed are even sides" in said and said.count("\n") == 1


def test_without_a_gpu_nothing_is_written(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    target = tmp_path / "kernels.json"
    command = [sys.executable, "benchmarks/kernel_floor.py", "--json", str(target)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and not target.exists()
    assert done.stderr.startswith("kernel_floor.py: no NVIDIA GPU can be used") and done.stderr.count("\n") == 1
