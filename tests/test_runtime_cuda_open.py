"""Which CUDA backend is taken, what is refused before a device is open, and kernel arguments."""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from pspnet.cli import explain
from pspnet.errors import PspnetError
from runtime import cuda_driver
from runtime.cuda import CudaOutOfMemory, backend_name, device_count, open_device
from runtime.cuda_arguments import packed_arguments
from tests.doubles.cuda_driver import CudaDouble

ROOT = Path(__file__).parents[1]
STARTING = {"cuInit": 999, "cuDeviceGetCount": 1, "cuDeviceGetName": 101, "cuDevicePrimaryCtxRetain": 46}


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that installs stand-ins of these packages, and takes all others away."""
    monkeypatch.delenv("PSPNET_CUDA_BACKEND", raising=False)

    def install(*names: str) -> None:
        for name in ("pycuda.driver", "cuda.bindings.driver"):
            parts = name.split(".")
            for end in range(1, len(parts) + 1):
                module = ModuleType(".".join(parts[:end])) if parts[0] in names else None
                monkeypatch.setitem(sys.modules, ".".join(parts[:end]), module)
                if module and end > 1:
                    setattr(sys.modules[".".join(parts[: end - 1])], parts[end - 1], module)

    return install


def refusal(index: int = 0) -> str:
    """The line that open_device raises."""
    with pytest.raises(PspnetError) as caught:
        open_device(index)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("installed", "chosen", "name"),
    [
        (("pycuda", "cuda"), None, "pycuda"), (("cuda",), None, "cuda-bindings"), (("pycuda",), None, "pycuda"),
        (("pycuda", "cuda"), "cuda-bindings", "cuda-bindings"), (("cuda",), "pycuda", None), ((), None, None),
        (("pycuda", "cuda"), "", "pycuda"),
    ],
)  # fmt: skip
def test_pycuda_comes_first_unless_another_is_chosen(
    packages: Callable[..., None], monkeypatch: pytest.MonkeyPatch, installed: tuple[str, ...], chosen: str | None,
    name: str | None,
) -> None:  # fmt: skip
    packages(*installed)
    if chosen is not None:
        monkeypatch.setenv("PSPNET_CUDA_BACKEND", chosen)
    assert backend_name() == name


def test_an_unknown_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PSPNET_CUDA_BACKEND", "opencl")
    with pytest.raises(PspnetError, match="PSPNET_CUDA_BACKEND is 'opencl': set it to pycuda or cuda-bindings"):
        backend_name()


def test_without_a_package_the_line_says_how_to_install_one(
    cuda_double: CudaDouble, packages: Callable[..., None]
) -> None:
    packages()
    line = refusal()
    for wanted in (
        "pycuda is not installed and cuda-bindings is not installed", "pip install cuda-bindings", "JetPack 6",
        "'cuda-bindings<13'", "pip install 'pspnet-edge[pycuda]'", "apt-get install nvidia-jetpack", "on a desktop",
    ):  # fmt: skip
        assert wanted in line, wanted


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            "raise ImportError('undefined symbol:\\n cuGraphLaunch')",
            "cannot be loaded (undefined symbol: cuGraphLaunch)",
        ),
        ("import a_package_of_nobody", "lacks the package a_package_of_nobody"),
        ("1 / 0", "cannot be loaded (division by zero)"),
    ],
)
def test_a_package_that_cannot_be_loaded_says_why(
    cuda_double: CudaDouble, packages: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str,
    reason: str,
) -> None:  # fmt: skip
    packages("cuda")
    (tmp_path / "pycuda").mkdir()
    (tmp_path / "pycuda" / "__init__.py").touch()
    (tmp_path / "pycuda" / "driver.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("pycuda", "pycuda.driver"):
        monkeypatch.delitem(sys.modules, name)
    assert backend_name() == "cuda-bindings"
    monkeypatch.setenv("PSPNET_CUDA_BACKEND", "pycuda")
    assert backend_name() is None
    line = refusal()
    assert f"and pycuda {reason}. Install" in line and "cuda-bindings" not in line


def test_no_driver_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_driver, "LIBRARY", "libcuda-of-nobody.so.1")
    line = refusal()
    assert line.startswith("there is no NVIDIA driver here (libcuda-of-nobody.so.1: cannot open shared object file")
    assert "nvidia-jetpack" in line and "nvidia.com/drivers" in line and "--gpus all" in line


def test_no_gpu_is_a_line(cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda_double.fail_call("cuInit", 100)
    assert "cuInit failed: CUDA_ERROR_NO_DEVICE (no CUDA-capable device is detected). See nvidia-smi" in refusal()
    monkeypatch.setenv("CUDA_DOUBLE_DEVICES", "0")
    assert "CUDA_ERROR_NO_DEVICE" in refusal()


@pytest.mark.parametrize("index", [-1, 1])
def test_a_gpu_that_is_not_there_is_refused(cuda_double: CudaDouble, index: int) -> None:
    assert f"there is no GPU {index}: this machine has 1" in refusal(index)
    assert device_count() == 1 and not cuda_double.live()


@pytest.mark.parametrize("call", STARTING)
def test_every_call_at_the_start_is_checked(cuda_double: CudaDouble, call: str) -> None:
    cuda_double.fail_call(call, STARTING[call])
    line = refusal()
    assert "the GPU cannot be used: " in line and cuda_driver.error_text(STARTING[call]) in line
    assert not cuda_double.live()


def test_codes_of_a_newer_driver_are_told_by_number() -> None:
    assert cuda_driver.error_text(977) == "error 977, which this NVIDIA driver does not know"


def test_importing_the_module_loads_no_backend() -> None:
    code = "import runtime.cuda, sys; print({'pycuda', 'cuda.bindings', 'torch', 'tensorrt'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_out_of_memory_keeps_its_figures_on_the_command_line() -> None:
    error = CudaOutOfMemory("cuMemAlloc failed: 50.0 MiB needed, 40.0 MiB free", 50, 40)
    assert explain(error, argparse.Namespace(command="run")) == str(error)


class Pair(ctypes.Structure):
    _fields_ = (("small", ctypes.c_int8), ("large", ctypes.c_double))


class Packed(ctypes.Structure):
    """The same arguments as the C compiler lays them out, which is how CUDA reads them."""

    _fields_ = (
        ("a", ctypes.c_uint8), ("b", ctypes.c_double), ("c", ctypes.c_int16), ("d", ctypes.c_float),
        ("e", ctypes.c_bool), ("f", ctypes.c_uint64), ("g", ctypes.c_int8), ("h", Pair), ("i", ctypes.c_int32),
        ("j", ctypes.c_uint8 * 3), ("k", ctypes.c_uint16), ("l", Pair),
    )  # fmt: skip


def test_arguments_lie_as_a_c_structure_has_them() -> None:
    pair = np.array((-3, 0.25), np.dtype([("small", np.int8), ("large", np.float64)], align=True))[()]
    arguments = [
        np.uint8(7), np.float64(0.1), np.int16(-2), np.float32(1.5), np.bool_(True), 2**63 + 5, ctypes.c_int8(-1),
        pair, ctypes.c_int32(-9), (ctypes.c_uint8 * 3)(1, 2, 3), np.uint16(500), Pair(4, 8.0),
    ]  # fmt: skip
    data, offsets = packed_arguments(arguments)
    assert offsets == [getattr(Packed, field[0]).offset for field in Packed._fields_]
    assert len(data) == Packed.l.offset + ctypes.sizeof(Pair)
    seen = Packed.from_buffer_copy(data)
    assert (seen.a, seen.b, seen.c, seen.d, seen.e, seen.f, seen.g) == (7, 0.1, -2, 1.5, True, 2**63 + 5, -1)
    assert (seen.h.small, seen.h.large, seen.i, list(seen.j), seen.k) == (-3, 0.25, -9, [1, 2, 3], 500)
    assert (seen.l.small, seen.l.large) == (4, 8.0)
    assert packed_arguments([]) == (b"", [])


@pytest.mark.parametrize("argument", [0.5, True, "3", None, -1, 2**64, np.zeros(3), np.complex64(1), b"x", [1]])
def test_arguments_of_unknown_size_are_refused(argument: object) -> None:
    with pytest.raises(TypeError, match="kernel argument 1 is"):
        packed_arguments([np.int32(1), argument])
