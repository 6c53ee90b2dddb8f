"""The kernels' sources, compiled by g++ and run by the CUDA driver double, against the CPU's path."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from pspnet.geometry import Geometry
from runtime.cuda import CudaError, open_device
from runtime.cuda_pictures import DeviceLogits, DevicePicture
from runtime.cuda_tables import CameraTables, ClassCounts, Colours, InputTables, uploaded
from tests import cpu_kernels, kernel_checks
from tests.doubles.cuda_driver import CudaDouble
from tests.kernel_runs import Bench


@pytest.fixture
def bench(cuda_double: CudaDouble, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """The double with the kernels as g++ makes them."""
    cpu_kernels.use_on_cpu(monkeypatch)
    with open_device() as device:
        yield Bench(device)


@pytest.mark.parametrize("layout", kernel_checks.ALL_FORMATS)
def test_the_networks_input_is_that_of_opencv(bench: Bench, layout: str) -> None:
    kernel_checks.check_preprocess(bench, layout)
    kernel_checks.check_preprocess_pitch(bench, layout)


@pytest.mark.parametrize("kind", kernel_checks.ALL_LOGITS)
def test_labels_are_those_of_the_cpu_to_the_last_pixel(bench: Bench, kind: str) -> None:
    kernel_checks.check_labels(bench, kind)


def test_every_number_of_float16_is_read_as_it_is(bench: Bench) -> None:
    kernel_checks.check_every_half(bench)


def test_labels_for_every_fit_and_region(bench: Bench) -> None:
    kernel_checks.check_labels_geometries(bench)
    kernel_checks.check_labels_pitch(bench)


def test_uniform_cells_are_found(bench: Bench) -> None:
    kernel_checks.check_uniform_share(bench)


def test_confidence_is_that_of_the_cpu(bench: Bench) -> None:
    kernel_checks.check_confidence(bench)


@pytest.mark.parametrize("layout", kernel_checks.ALL_FORMATS)
def test_overlay_is_that_of_the_cpu(bench: Bench, layout: str) -> None:
    kernel_checks.check_overlay(bench, layout)


def test_pixels_of_each_class_are_counted(bench: Bench) -> None:
    kernel_checks.check_class_counts(bench)


def test_kernels_run_from_a_graph(bench: Bench) -> None:
    kernel_checks.check_graph(bench)


def test_launches_allocate_nothing(bench: Bench, cuda_double: CudaDouble) -> None:
    device, geometry = bench.device, Geometry((20, 30), (32, 40))
    tables, counts = CameraTables(device, geometry, (4, 5), with_confidence=True), ClassCounts(device)
    into, colours = InputTables(device, geometry, (0, 0, 0)), Colours(device, [(1, 2, 3)])
    logits = DeviceLogits(uploaded(device, np.zeros((3, 4, 5), np.float32)).address, (3, 4, 5))
    picture = DevicePicture(uploaded(device, np.zeros((20, 30, 3), np.uint8)).address, "bgr", (20, 30))
    network, labels, levels, bgr = (device.allocate(nbytes) for nbytes in (3840, 600, 600, 1800))
    before = cuda_double.live()
    cuda_double.fail_call("cuMemAlloc_v2", 1)  # 2, out of memory, would have PyCUDA collect garbage and try again
    bench.kernels.preprocess(bench.stream, picture, into, network)
    bench.kernels.labels(bench.stream, logits, tables, labels)
    bench.kernels.confidence(bench.stream, logits, tables, levels)
    bench.kernels.overlay(bench.stream, picture, labels, colours, 0.5, bgr)
    bench.kernels.class_counts(bench.stream, labels, (20, 30), counts)
    assert cuda_double.live() == before
    with pytest.raises(CudaError):  # the refusal has waited until now
        device.allocate(1)


def test_tables_give_their_memory_back(bench: Bench, cuda_double: CudaDouble) -> None:
    before = cuda_double.live()
    bench.labelled(np.zeros((3, 4, 5), np.float32), Geometry((20, 30), (32, 40)))
    bench.counted(np.zeros((4, 5), np.uint8))
    assert cuda_double.live() == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((0, "rgba", (4, 4)), "rgba"),
        ((0, "nv12", (3, 4)), "even"),
        ((0, "bgr", (4, 4), 11), "pitch of 11"),
        ((2, "yuyv", (4, 4)), "multiples of 4"),
        ((1, "nv12", (4, 4)), "multiples of 2"),
        ((0, "nv12", (4, 4), 4, 16, 5), "multiples of 2"),
    ],
)
def test_pictures_that_cannot_be_are_refused(arguments: tuple, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DevicePicture(*arguments)


@pytest.mark.parametrize(
    ("shape", "dtype", "said"), [((256, 1, 1), "float32", "255 classes"), ((2, 1, 1), "int8", "int8")]
)
def test_logits_that_cannot_be_are_refused(shape: tuple[int, int, int], dtype: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DeviceLogits(0, shape, dtype)


def test_sizes_that_do_not_fit_are_refused(bench: Bench) -> None:
    geometry = Geometry((20, 30), (32, 40))
    tables, into = CameraTables(bench.device, geometry, (4, 5)), InputTables(bench.device, geometry, (0, 0, 0))
    with pytest.raises(ValueError, match="tables are for"):
        bench.kernels.labels(bench.stream, DeviceLogits(0, (3, 5, 4)), tables, 0)
    with pytest.raises(ValueError, match="tables are for"):
        bench.kernels.preprocess(bench.stream, DevicePicture(0, "bgr", (30, 20)), into, 0)
    with pytest.raises(ValueError, match="with_confidence"):
        bench.kernels.confidence(bench.stream, DeviceLogits(0, (3, 4, 5)), tables, 0)
