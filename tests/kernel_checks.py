"""What the kernels must give, on the driver double as on a GPU: each check takes a Bench."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np

from pspnet.geometry import Geometry, network_input
from runtime import confidence, labels, overlay
from runtime.cuda_pictures import DeviceLogits, DevicePicture
from runtime.cuda_tables import CameraTables, ClassCounts, InputTables
from runtime.frame import FORMATS
from tests.kernel_cases import (
    GEOMETRIES,
    LOGITS,
    MAPS,
    ODD_GEOMETRIES,
    WIDE,
    YUV_KINDS,
    frame,
    rough,
    smooth,
)  # fmt: skip
from tests.kernel_runs import Bench

GREY_LEVELS = 1
"""OpenCV's vector code rounds its interpolation otherwise than its plain code, which the kernels repeat."""
MOST_OTHERS = 0.15
"""Share of values at which that shows: OpenCV against itself gives 0.11 on noise."""
CONFIDENCE_LEVELS = 1
"""Exponentials of different libraries differ in the last bit, which decides a rounding now and then."""
MEAN = (123.675, 116.28, 103.53)
SPEC: Any = SimpleNamespace(mean=MEAN)
YUV_FORMATS = ("nv12", "yuyv", "uyvy")
PALETTE = [(128, 64, 128), (0, 255, 0), (255, 255, 255), (0, 0, 0), (7, 130, 180)]


def check_preprocess(bench: Bench, layout: str) -> None:
    """Every geometry, matrix and range: within one grey level of OpenCV, and equal where nothing is interpolated."""
    geometries = GEOMETRIES if layout in YUV_FORMATS else GEOMETRIES | ODD_GEOMETRIES
    for seed, (name, geometry) in enumerate(geometries.items()):
        for matrix, full_range in YUV_KINDS if layout in YUV_FORMATS else YUV_KINDS[:1]:
            given = frame(layout, geometry.camera_size, matrix, full_range, seed)
            got = bench.preprocessed(given, geometry, MEAN)
            assert_near(got, network_input(given.bgr(), geometry, SPEC), (name, matrix, full_range))
            if name == "same":
                np.testing.assert_array_equal(got, given.bgr()[..., ::-1])


def check_preprocess_pitch(bench: Bench, layout: str) -> None:
    """Rows with gaps, and pictures that begin at any byte where the format allows it."""
    geometry = GEOMETRIES["region"]
    given = frame(layout, geometry.camera_size)
    expected = network_input(given.bgr(), geometry, SPEC)
    step = {"nv12": 2, "yuyv": 4, "uyvy": 4}.get(layout, 1)
    for gap, shift in np.array([(1, 0), (7, 1), (2, 2), (0, 3), (10, 4)]) * step:
        assert_near(bench.preprocessed(given, geometry, MEAN, gap, shift), expected, (gap, shift))


def check_labels(bench: Bench, kind: str) -> None:
    """Equal to `labels.from_logits_at_camera` in every pixel: maps, types, layouts, both rules for corners."""
    for seed, shape in enumerate(MAPS):
        logits = LOGITS[kind](shape, seed)
        for dtype, align_corners in (("float32", False), ("float32", True), ("float16", False)):
            given = as_type(logits, dtype)
            channels_last = seed % 2 == 1
            got, _ = bench.labelled(given, WIDE, align_corners, channels_last=channels_last)
            expected = labels.from_logits_at_camera(given.astype(np.float32), WIDE, align_corners)
            np.testing.assert_array_equal(got, expected, f"{kind} {shape} {dtype} {align_corners}")


def check_every_half(bench: Bench) -> None:
    """Each finite number of float16 against another one: as numpy compares them, the first where they are equal."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)]
    logits = np.stack([finite, np.random.default_rng(0).permutation(finite)]).reshape(2, 248, 256)
    got, _ = bench.labelled(logits, Geometry((248, 256), (248, 256)))
    np.testing.assert_array_equal(got, logits[1] > logits[0])


def check_labels_geometries(bench: Bench) -> None:
    """Every fit and region, camera sizes below and above the map's, with 255 where the network did not look."""
    outside = 0
    for seed, (name, geometry) in enumerate((GEOMETRIES | ODD_GEOMETRIES).items()):
        cells = tuple(max(math.ceil(side / 8), 1) for side in geometry.network_size)
        for shape in ((5, *cells), (3, *geometry.network_size), (4, 60, 70)):
            for align_corners in (False, True):
                logits = smooth(shape, seed)
                got, _ = bench.labelled(logits, geometry, align_corners)
                expected = labels.from_logits_at_camera(logits, geometry, align_corners)
                np.testing.assert_array_equal(got, expected, f"{name} {shape} {align_corners}")
                outside += int((got == 255).sum())
    assert outside


def check_labels_pitch(bench: Bench) -> None:
    """Rows of labels with gaps of any size between them, which are left alone."""
    logits = smooth((6, 12, 26))
    expected = labels.from_logits_at_camera(logits, WIDE)
    for gap in (1, 2, 3, 43):
        np.testing.assert_array_equal(bench.labelled(logits, WIDE, gap=gap)[0], expected)


def check_uniform_share(bench: Bench) -> None:
    """Cells are taken whole where four winners agree, and only there; the share says that there are such cells."""
    logits = smooth((6, 12, 26))
    _, share = bench.labelled(logits, WIDE)
    assert 0.3 < share < 1 and math.isclose(share, labels.uniform_share(logits))
    assert bench.labelled(np.zeros((3, 6, 7), np.float32), WIDE)[1] == 0  # all classes are equal
    assert bench.labelled(np.ones((1, 6, 7), np.float32), WIDE)[1] == 1


def check_confidence(bench: Bench) -> None:
    """Within one level of `confidence.at_camera`, of logits as of probabilities, for every fit."""
    cases = [("wide", WIDE, shape) for shape in MAPS] + [
        (name, geometry, (4, 6, 7)) for name, geometry in (GEOMETRIES | ODD_GEOMETRIES).items()
    ]
    for seed, (name, geometry, shape) in enumerate(cases):
        logits = rough(shape, seed) * 3
        for dtype, align_corners, probabilities in (
            ("float32", False, False), ("float32", True, True), ("float16", True, False), ("float16", False, True),
        ):  # fmt: skip
            given = as_type(np.abs(logits) / 4 if probabilities else logits, dtype)
            got = bench.confidence(given, geometry, align_corners, probabilities, gap=seed % 3)
            expected = confidence.at_camera(given.astype(np.float32), geometry, align_corners, probabilities)
            difference = np.abs(got.astype(int) - expected)
            assert difference.max() <= CONFIDENCE_LEVELS, (name, shape, dtype, align_corners, probabilities)
            assert (difference > 0).mean() < 0.05


def check_overlay(bench: Bench, layout: str) -> None:
    """Within one grey level of `overlay.blend`; pixels without a class stay as they are."""
    size = (26, 38)
    found = np.random.default_rng(1).integers(0, len(PALETTE) + 2, size).astype(np.uint8)
    found[found == len(PALETTE) + 1] = 255
    for matrix, full_range in YUV_KINDS if layout in YUV_FORMATS else YUV_KINDS[:1]:
        given = frame(layout, size, matrix, full_range)
        for alpha in (0.0, 0.3, 0.55, 1.0):
            got = bench.overlaid(given, found, PALETTE, alpha)
            expected = overlay.blend(given.bgr(), found, PALETTE, alpha)
            assert np.abs(got.astype(int) - expected).max() <= GREY_LEVELS, (alpha, matrix, full_range)
            np.testing.assert_array_equal(got[found == 255], given.bgr()[found == 255])


def check_class_counts(bench: Bench) -> None:
    """Equal to numpy's bincount, for noise and for regions, any size, rows with gaps, and again and again."""
    random = np.random.default_rng(3)
    for size in ((97, 213), (1, 1), (33, 4), (64, 128), (5, 3)):
        noise = random.integers(0, 256, size).astype(np.uint8)
        regions = labels.from_logits(smooth((7, 5, 6)), size)
        for found in (noise, regions, np.full(size, 255, np.uint8)):
            for gap in (0, 1, 4):
                got = bench.counted(found, gap)
                np.testing.assert_array_equal(got, np.bincount(found.ravel(), minlength=256), f"{size} {gap}")


def check_graph(bench: Bench) -> None:
    """Picture to input, logits to labels and counts in one graph, which gives what the same launches give."""
    geometry, logits = Geometry((96, 160), (48, 80)), smooth((6, 6, 10))
    given = frame("nv12", geometry.camera_size)
    into, at_camera, counts = (
        InputTables(bench.device, geometry, MEAN),
        CameraTables(bench.device, geometry, (6, 10)),
        ClassCounts(bench.device),
    )
    found = np.zeros(geometry.camera_size, np.uint8)
    with bench.buffers(given.image, logits, found, np.zeros((48, 80, 3), np.uint8)) as (source, map_, target, network):
        with bench.device.capture(bench.stream) as graph:
            bench.kernels.preprocess(bench.stream, DevicePicture.of(given, source.address), into, network)
            bench.kernels.labels(bench.stream, DeviceLogits(map_.address, (6, 6, 10)), at_camera, target)
            bench.kernels.class_counts(bench.stream, target, geometry.camera_size, counts)
        assert not bench.fetched(target, geometry.camera_size).any()  # captured, not run
        for _ in range(3):
            graph.launch(bench.stream)
        expected = labels.from_logits_at_camera(logits, geometry)
        np.testing.assert_array_equal(bench.fetched(target, geometry.camera_size), expected)
        assert_near(bench.fetched(network, (48, 80, 3)), network_input(given.bgr(), geometry, SPEC), "graph")
        counted = bench.fetched(counts.counts, (256,), np.uint32)
        np.testing.assert_array_equal(counted, np.bincount(expected.ravel(), minlength=256))


def as_type(logits: np.ndarray, dtype: str) -> np.ndarray:
    """The logits as a network of that type gives them."""
    with np.errstate(over="ignore"):
        return logits.astype(dtype)


def assert_near(got: np.ndarray, expected: np.ndarray, where: object) -> None:
    """Fails where a value is more than a grey level off, or too many are off at all."""
    difference = np.abs(got.astype(int) - expected)
    assert difference.max() <= GREY_LEVELS, where
    assert difference.size < 500 or (difference > 0).mean() <= MOST_OTHERS, where


ALL_FORMATS, ALL_LOGITS = FORMATS, tuple(LOGITS)
