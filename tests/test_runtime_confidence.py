"""Confidence against PyTorch's softmax and interpolation, and against a plain bilinear sum in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from pspnet.errors import PspnetError
from pspnet.geometry import Geometry
from runtime import confidence, yuv
from runtime.frame import Frame
from runtime.pattern import packed_from_bgr
from runtime.segmenter import CpuSegmenter, View
from tests.live_doubles import SIZE, SPEC, FakeRunner

LEVEL = 1  # stored values are whole: half a level of rounding, and float32 before it
LOGITS = np.random.default_rng(3).normal(0, 3, (5, 12, 16)).astype(np.float32)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(96, 128), (71, 45), (12, 16), (5, 300)])
def test_the_whole_picture_is_what_pytorch_gives(size: tuple[int, int], align_corners: bool) -> None:
    winners = torch.from_numpy(LOGITS).softmax(0).amax(0)[None, None]
    exact = functional.interpolate(winners, size, mode="bilinear", align_corners=align_corners)[0, 0].numpy() * 255
    ours = confidence.at_camera(LOGITS, Geometry(size, size), align_corners)
    assert ours.dtype == np.uint8 and ours.shape == size
    assert np.abs(ours - exact).max() <= LEVEL / 2 + 1e-2


def restated(values: np.ndarray, geometry: Geometry, align_corners: bool) -> np.ndarray:
    """(H, W) float64: bilinear at every camera pixel's centre, 0 where the network did not look."""
    (rows, seen_rows), (columns, seen_columns) = geometry.logit_positions(values.shape, align_corners)  # type: ignore[arg-type]
    h, w = values.shape
    wide = np.stack([np.interp(columns, np.arange(w), line) for line in values.astype(np.float64)])
    full = np.stack([np.interp(rows, np.arange(h), column) for column in wide.T], axis=1)
    return np.where(seen_rows[:, None] & seen_columns, full, 0)


@pytest.mark.parametrize("fit", ["stretch", "letterbox", "crop"])
@pytest.mark.parametrize("region", [None, (10, 20, 50, 60)])
def test_the_geometry_is_followed(fit: str, region: tuple[int, int, int, int] | None) -> None:
    geometry = Geometry((90, 100), (96, 128), fit, region)
    winners = torch.from_numpy(LOGITS).softmax(0).amax(0).numpy()
    exact = restated(255 * winners, geometry, False)
    ours = confidence.at_camera(LOGITS, geometry)
    assert np.abs(ours - exact).max() <= LEVEL / 2 + 1e-2
    assert ((ours == 0) == (exact == 0)).all()  # the winner of 5 classes has at least a fifth


def test_large_logits_overflow_nothing_and_ties_are_equal_shares() -> None:
    logits = np.full((4, 3, 3), 3e38, np.float32)
    assert (confidence.at_camera(logits, Geometry((9, 9), (24, 24))) == 64).all()  # 255 / 4, rounded
    logits[1] = -3e38
    logits[2:] = -np.float32(3e38)
    assert (confidence.at_camera(logits, Geometry((9, 9), (24, 24))) == 255).all()


def test_probabilities_are_taken_as_they_are() -> None:
    geometry = Geometry((12, 16), (12, 16))
    several = np.random.default_rng(0).random((3, 12, 16), np.float32)
    ours = confidence.at_camera(several, geometry, probabilities=True)
    assert np.abs(ours - 255 * several.max(0)).max() <= LEVEL / 2 + 1e-2
    one_plane = np.stack([np.full((12, 16), 0.5, np.float32), several[0]])
    both = confidence.at_camera(one_plane, geometry, probabilities=True)
    assert np.abs(both - 255 * np.maximum(several[0], 1 - several[0])).max() <= LEVEL / 2 + 1e-2


def test_levels_stand_for_at_least_the_share() -> None:
    assert [confidence.level_from_share(share) for share in (0, 0.5, 0.6, 1)] == [0, 128, 153, 255]


def frames() -> list[Frame]:
    random = np.random.default_rng(7)
    sizes = {"a": SIZE, "b": (40, 64), "c": (100, 50)}
    return [
        Frame(random.integers(0, 256, (*sizes[source], 3), np.uint8), "bgr", source, count, 0, 0)
        for count, source in enumerate("abcba")
    ]


VIEWS = {"b": View("letterbox"), "c": View("crop", (10, 5, 60, 40))}


class EchoRunner(FakeRunner):
    """Logits that tell the pictures apart: the mean of each cell's pixels, in as many classes as there are."""

    def infer(self, images: np.ndarray) -> np.ndarray:
        self.batches.append(len(images))
        cells = images.astype(np.float32).reshape(len(images), 12, 8, 16, 8, 3).mean((2, 4))
        return np.stack([np.sin(cells.sum(-1) / 9 * (c + 1)) * 4 for c in range(SPEC.classes)], axis=1)


@pytest.mark.parametrize("batch", [2, 3, 8])
def test_batches_give_what_single_pictures_give(batch: int) -> None:
    """Cameras of different sizes, fits and regions in one call."""
    single = CpuSegmenter(EchoRunner(), views=VIEWS, with_confidence=True)
    several = CpuSegmenter(EchoRunner(), views=VIEWS, with_confidence=True, batch=batch)
    expected, found = [single.segment([frame])[0] for frame in frames()], several.segment(frames())
    for one, other in zip(expected, found, strict=True):
        assert np.array_equal(one.labels, other.labels) and np.array_equal(one.confidence, other.confidence)
        assert one.geometry == other.geometry and one.labels.shape == other.frame.size
    assert len({result.labels.tobytes() for result in found}) == len(found)
    assert several.runner.batches == [min(batch, 5 - start) for start in range(0, 5, batch)]  # type: ignore[attr-defined]


LAYOUTS = ("bgr", "nv12", "rgb", "yuyv", "grey", "uyvy")


@pytest.mark.parametrize("fit", ["stretch", "letterbox", "crop"])
@pytest.mark.parametrize("batch", [1, 4])
def test_memory_that_is_used_again_changes_no_result(fit: str, batch: int) -> None:
    """One camera whose pictures change format and size all the time, against a segmenter that is new for each."""
    random, shown = np.random.default_rng(9), []
    for count, size in enumerate([(72, 96), (40, 64), (40, 64), (100, 50)] * 6):
        layout = LAYOUTS[count % len(LAYOUTS)]
        bgr = random.integers(0, 256, (*size, 3), np.uint8)
        image = bgr if layout in ("bgr", "rgb") else bgr[:, :, 0].copy()
        image = packed_from_bgr(bgr, layout, "709", True) if layout in yuv.FORMATS else image
        shown.append(Frame(image, layout, "front", count, 0, 0, matrix="709", full_range=True))
    kept = CpuSegmenter(EchoRunner(), fit, with_confidence=True, batch=batch).segment(shown)
    for frame, result in zip(shown, kept, strict=True):
        [new] = CpuSegmenter(EchoRunner(), fit, with_confidence=True).segment([frame])
        assert np.array_equal(new.labels, result.labels) and np.array_equal(new.confidence, result.confidence)
        assert new.geometry == result.geometry


def test_the_batch_is_the_engines_own_unless_it_is_given() -> None:
    class BuiltRunner(FakeRunner):
        provenance = {"batch": {"min": 1, "opt": 2, "max": 4}}  # type: ignore[assignment]  # noqa: RUF012

    runner = BuiltRunner()
    assert CpuSegmenter(FakeRunner()).batch == 1 and CpuSegmenter(runner).batch == 4
    assert CpuSegmenter(runner, batch=2).batch == 2
    with pytest.raises(PspnetError, match="batch is 0"):
        CpuSegmenter(runner, batch=0)


def test_confidence_is_made_only_where_it_is_asked_for_and_can_be() -> None:
    [frame, *_] = frames()
    assert CpuSegmenter(FakeRunner()).segment([frame])[0].confidence is None
    runner = FakeRunner()
    runner.gives = "labels"
    with pytest.raises(PspnetError, match="labels without logits"):
        CpuSegmenter(runner, with_confidence=True)
