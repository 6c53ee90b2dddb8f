"""Fixtures that several test files share."""

from __future__ import annotations

import functools
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pspnet.dataset import Dataset
from pspnet.doctor import has_nvidia_gpu
from tests.doubles import cuda_driver
from tests.doubles.cuda_driver import CudaDouble
from tests.doubles.tensorrt_double import install

ROOT = Path(__file__).parents[1]


# A shell that starts the suite in the background has it ignore Ctrl-C, and with it every program that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def camvid_tiny() -> Path:
    """The repository's 16 CamVid pairs, 360x480, in the camvid11 layout."""
    return Path(__file__).parents[1] / "demo" / "camvid11_tiny"


@pytest.fixture
def dataset(camvid_tiny: Path) -> Dataset:
    """The train split of `camvid_tiny`."""
    from pspnet.dataset import open_dataset

    return open_dataset("camvid11", camvid_tiny, "train")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """PyTorch on one thread: small nets gain nothing from more, and sums would depend on their number."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs without curves.png, which takes longer to draw than a small epoch and has tests of its own."""
    from pspnet import run_log

    monkeypatch.setattr(run_log, "write_curves", lambda path, rows: None)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory, camvid_tiny: Path) -> Path:
    """A seeded, untrained checkpoint: mobilenet_v2, output stride 32, 96x96, bins 1, 2 and 3, the 11 CamVid classes.

    Batch norm statistics are random, so that a mistake in folding them shows.
    """
    import torch

    from pspnet.checkpoint import save_checkpoint
    from pspnet.dataset import open_dataset
    from pspnet.initialise import new_model

    dataset = open_dataset("camvid11", camvid_tiny, "train")
    spec, model = new_model(dataset, "mobilenet_v2", 32, (1, 2, 3), (96, 96), "stretch", False, "none", seed=0)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.8, 1.6)
            torch.nn.init.normal_(module.bias, 0, 0.2)
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
        elif isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.pt"
    save_checkpoint(path, spec, model.state_dict())
    return path


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mobilenet_v2 at output stride 16 for 96x128, bins 1, 2, 3 and 6, CamVid's 11 classes, random weights."""
    from pspnet.checkpoint import save_checkpoint
    from tests.nets import random_model

    spec, model = random_model("mobilenet_v2", 16, (96, 128))
    path = tmp_path_factory.mktemp("small") / "small.pt"
    save_checkpoint(path, spec, model.state_dict())
    return path


@pytest.fixture(scope="session")
def small_onnx(small_checkpoint: Path) -> Path:
    """The exported `small_checkpoint`."""
    from export.exporter import export

    path = small_checkpoint.with_suffix(".onnx")
    export(small_checkpoint, path)
    return path


@pytest.fixture
def cuda_double() -> Iterator[CudaDouble]:
    """The CUDA driver double, fresh, as this process's libcuda.so.1: cuda-bindings and PyCUDA run on the CPU."""
    reason = cuda_driver.reason_unavailable()
    if reason is not None:
        pytest.skip(reason)
    double = cuda_driver.load()
    double.reset()
    yield double
    double.reset()


@pytest.fixture(params=["10.3.0", "11.4.0"])
def trt(request: pytest.FixtureRequest, cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """TensorRT's double of either generation, as this process's `tensorrt`, on the driver double."""
    return install(monkeypatch, request.param)


@pytest.fixture(scope="session")
def small_plans() -> dict[str, Any]:
    """The plans and passports that `small_engine` has built, by version of TensorRT."""
    return {}


@pytest.fixture
def small_engine(trt: ModuleType, small_plans: dict[str, Any], small_onnx: Path, tmp_path: Path) -> Path:
    """`small_onnx` as a float32 engine for 1 to 3 pictures, with its passport, built by `trt`."""
    from tests.engines import save_engine, write_engine

    path, version = tmp_path / "model.engine", trt.__version__
    if version in small_plans:
        write_engine(path, *small_plans[version])
    else:
        passport = save_engine(path, small_onnx, "weak" if version < "11" else "strong", batch=3)
        small_plans[version] = path.read_bytes(), passport
    return path


@pytest.fixture
def kernels_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our kernels as g++ makes them, for the driver double."""
    from tests import cpu_kernels

    cpu_kernels.use_on_cpu(monkeypatch)


@pytest.fixture(scope="session")
def balanced_onnx(small_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`small_onnx` with a classifier that lets every class win somewhere."""
    from tests.engine_files import balanced

    return balanced(small_onnx, tmp_path_factory.mktemp("balanced") / "net.onnx")


@pytest.fixture
def balanced_engine(balanced_onnx: Path, trt: ModuleType, tmp_path: Path) -> Path:
    """A float32 engine of `balanced_onnx` for 1 to 3 pictures, built by `trt`."""
    from tests.segmenter_cases import engine_of

    return engine_of(balanced_onnx, tmp_path / "net.engine", trt)


@pytest.fixture(params=["integrated", "card"])
def memory_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, cuda_double: CudaDouble) -> str:
    """Whether the CPU and the GPU of the double share their memory."""
    monkeypatch.setenv("CUDA_DOUBLE_INTEGRATED", str(int(request.param == "integrated")))
    cuda_double.reset()
    return request.param


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip `gpu` tests by name where there is no GPU for them: PyTorch's own, or one that CUDA opens."""
    for item in items:
        if "gpu" in item.keywords and (reason := _no_gpu(hasattr(item.module, "torch"))):  # type: ignore[attr-defined]
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Test files of PyTorch are skipped by name where it is absent, as on a Jetson."""
    return None if find_spec("torch") else _WithoutTorch.from_parent(parent, path=module_path)


class _WithoutTorch(pytest.Module):
    """A test file that may need PyTorch."""

    def collect(self) -> Any:
        """Its tests."""
        try:
            return super().collect()
        except self.CollectError as error:
            if "torch" not in str(error):
                raise
            pytest.skip(f"{self.path.name} needs PyTorch, which is not installed", allow_module_level=True)


@functools.cache
def _no_gpu(for_torch: bool) -> str:
    """Why tests that need a GPU cannot run here, "" where they can."""
    if for_torch:
        import torch

        return "" if torch.cuda.is_available() else "PyTorch sees no NVIDIA GPU on this machine"
    if not has_nvidia_gpu():
        return "no NVIDIA GPU on this machine"
    # Not in this process: what it has loaded as the driver, it keeps, and other tests load a double.
    program = "from runtime.cuda import device_count; device_count()"
    asked = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    return asked.stderr.strip().rpartition("\n")[2] if asked.returncode else ""
