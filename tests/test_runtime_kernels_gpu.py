"""The kernels on a real GPU, compiled by NVRTC, against the CPU's path: pytest -m gpu."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from pspnet.geometry import Geometry
from runtime import labels
from runtime.cuda import open_device
from runtime.cuda_backend import BACKENDS, backend_failures
from runtime.nvrtc import CannotCompile
from tests import kernel_checks
from tests.kernel_cases import smooth
from tests.kernel_runs import Bench

pytestmark = pytest.mark.gpu


@pytest.fixture(params=BACKENDS)
def bench(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    """GPU 0 by each backend that this machine has, with kernels compiled in this run."""
    if reason := backend_failures()[request.param]:
        pytest.skip(reason)
    monkeypatch.setenv("PSPNET_CUDA_BACKEND", request.param)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "kernel-cache"))
    with open_device() as device:
        try:
            made = Bench(device)
        except CannotCompile as error:
            pytest.skip(str(error))
        yield made


@pytest.mark.parametrize("layout", kernel_checks.ALL_FORMATS)
def test_the_networks_input_is_that_of_opencv(bench: Bench, layout: str) -> None:
    kernel_checks.check_preprocess(bench, layout)
    kernel_checks.check_preprocess_pitch(bench, layout)


@pytest.mark.parametrize("kind", kernel_checks.ALL_LOGITS)
def test_labels_are_those_of_the_cpu_to_the_last_pixel(bench: Bench, kind: str) -> None:
    kernel_checks.check_labels(bench, kind)


def test_labels_of_a_whole_road_scene(bench: Bench) -> None:
    """19 classes at 128x256 to 1024x2048, as Cityscapes has them."""
    logits = smooth((19, 128, 256)).astype(np.float16)
    geometry = Geometry((1024, 2048), (1024, 2048))
    got, share = bench.labelled(logits, geometry)
    np.testing.assert_array_equal(got, labels.from_logits_at_camera(logits.astype(np.float32), geometry))
    assert 0 < share < 1


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
    """The same graph twice; the second time after a run outside of it, as the runtime does."""
    kernel_checks.check_graph(bench)
    kernel_checks.check_graph(bench)
