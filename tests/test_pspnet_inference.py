"""Windows, scales and mirror images against a plain restatement of semseg's test loop in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pspnet import inference
from pspnet.errors import PspnetError
from pspnet.inference import Inference, Mode, mode_from_text
from pspnet.views import Whole, Windows, window_starts
from tests.guests import CLASSES, reference

PROBABILITY_ATOL = 1e-5  # of 1: float32 logits, exponentials and sums of a few windows, each 6e-8 off
MEAN = (110.0, 100.0, 90.0)
STRIDES = [2 / 3, 0.5, 1.0]


@dataclass
class Spec:
    input_size: tuple[int, int]
    align_corners: bool = False
    fit: str = "stretch"
    mean: tuple[float, float, float] = MEAN
    classes: int = CLASSES


class ConvolutionNetwork:
    """One strided convolution that looks at few pixels, so that every window gives other logits."""

    gives = "logits"

    def __init__(self, size: tuple[int, int], **changes: object) -> None:
        self.spec = Spec(size, **changes)  # type: ignore[arg-type]
        self.calls = 0

    def infer(self, images: np.ndarray) -> np.ndarray:
        assert images.dtype == np.uint8 and images.shape == (1, *self.spec.input_size, 3)
        self.calls += 1
        return 3 * reference(images[0])[None].astype(np.float32)

    def at_size(self, size: tuple[int, int]) -> ConvolutionNetwork:
        if size == self.spec.input_size:
            return self
        return ConvolutionNetwork(size, align_corners=self.spec.align_corners, fit=self.spec.fit)


def picture(height: int, width: int) -> np.ndarray:
    """A seeded picture (H, W, 3) uint8 BGR with large and small structures."""
    noise = np.random.default_rng(height * 1000 + width).standard_normal((height, width, 3))
    smooth = sum(s * cv2.GaussianBlur(noise, (0, 0), s) for s in (0.7, 2.0, 6.0))
    return np.clip(120 + 60 * smooth, 0, 255).astype(np.uint8)  # type: ignore[operator]


def upsampled(logits: np.ndarray, size: tuple[int, int], align_corners: bool) -> torch.Tensor:
    tensor = torch.from_numpy(logits).double()[None]
    return F.interpolate(tensor, size=size, mode="bilinear", align_corners=align_corners)


def window_probabilities(rgb: np.ndarray, align_corners: bool, flip: bool) -> np.ndarray:
    """semseg's net_process: (C, h, w) float64."""
    size = rgb.shape[:2]
    logits = [3 * reference(rgb)] + ([3 * reference(rgb[:, ::-1])] if flip else [])
    maps = [upsampled(each, size, align_corners).softmax(1)[0].numpy() for each in logits]
    return (maps[0] + maps[1][..., ::-1]) / 2 if flip else maps[0]


def slide_reference(
    image: np.ndarray, crop: tuple[int, int], scale: float, rate: float, align_corners: bool, flip: bool
) -> np.ndarray:
    """semseg's tool/test.py test() and scale_process(), one pixel block after another: (C, H, W) float64."""
    height, width = image.shape[:2]
    longer = round(scale * max(height, width))
    rows = longer if height >= width else round(longer / float(width) * height)
    columns = round(longer / float(height) * width) if height >= width else longer
    scaled = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_LINEAR)[..., ::-1]
    padded = np.empty((max(rows, crop[0]), max(columns, crop[1]), 3), np.uint8)
    padded[:] = MEAN
    top, left = int((padded.shape[0] - rows) / 2), int((padded.shape[1] - columns) / 2)
    padded[top : top + rows, left : left + columns] = scaled
    strides = [int(np.ceil(side * rate)) for side in crop]
    grid = [int(np.ceil(float(padded.shape[a] - crop[a]) / strides[a]) + 1) for a in (0, 1)]
    total, count = np.zeros((CLASSES, *padded.shape[:2])), np.zeros(padded.shape[:2])
    for i in range(grid[0]):
        for j in range(grid[1]):
            bottom = min(i * strides[0] + crop[0], padded.shape[0])
            right = min(j * strides[1] + crop[1], padded.shape[1])
            block = np.s_[bottom - crop[0] : bottom, right - crop[1] : right]
            total[(slice(None), *block)] += window_probabilities(padded[block], align_corners, flip)
            count[block] += 1
    inside = (total / count)[:, top : top + rows, left : left + columns]
    return upsampled(np.ascontiguousarray(inside), (height, width), False)[0].numpy()


def assert_same_labels(got: np.ndarray, expected: np.ndarray) -> None:
    """The labels are those of the largest expected probability, or of one that rounding cannot tell from it."""
    chosen = np.take_along_axis(expected, got[None].astype(int), 0)[0]
    assert (expected.max(0) - chosen).max() <= PROBABILITY_ATOL
    assert len(np.unique(got)) > 3  # a network whose labels say something


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    ("size", "crop", "scale", "rate", "align_corners"),
    [
        ((75, 101), (32, 48), 1.0, 2 / 3, False), ((75, 101), (33, 49), 1.0, 2 / 3, True),
        ((64, 90), (40, 40), 1.5, 2 / 3, False), ((91, 60), (48, 32), 0.75, 0.5, True),
        ((50, 70), (64, 40), 0.5, 1.0, False), ((40, 41), (64, 96), 1.0, 2 / 3, False),
    ],
)  # fmt: skip
def test_windows_equal_semsegs_loop(
    size: tuple[int, int], crop: tuple[int, int], scale: float, rate: float, align_corners: bool, flip: bool
) -> None:
    image = picture(*size)
    network = ConvolutionNetwork(crop, align_corners=align_corners)
    expected = slide_reference(image, crop, scale, rate, align_corners, flip)
    view = Windows(network, image, scale, rate, flip)
    got = np.concatenate([view.probabilities(start, min(start + 17, size[0])) for start in range(0, size[0], 17)], 1)
    np.testing.assert_allclose(got, expected, rtol=0, atol=PROBABILITY_ATOL)
    [labels] = Inference(network, Mode("slide", (scale,), flip, None, rate)).labels(image)
    assert_same_labels(labels, expected)


def test_scales_are_scored_alone_and_their_probabilities_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "BAND_BYTES", 40_000)  # several bands
    image, crop, scales = picture(61, 83), (32, 48), (0.5, 1.0, 1.75)
    expected = [slide_reference(image, crop, scale, 2 / 3, False, True) for scale in scales]
    ours = Inference(ConvolutionNetwork(crop), Mode("slide", scales, True))
    assert ours.names == ("0.5", "1", "1.75", "combined")
    for labels, probabilities in zip(ours.labels(image), [*expected, np.mean(expected, 0)], strict=True):
        assert_same_labels(labels, probabilities)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0, 1.25)])
def test_whole_pictures_at_scales_and_mirrored(scales: tuple[float, ...], align_corners: bool) -> None:
    image, size = picture(75, 101), (48, 64)
    expected = []
    for scale in scales:
        rows, columns = (round(side * scale) for side in size)
        rgb = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_LINEAR)[..., ::-1]
        both = [3 * reference(rgb), 3 * np.ascontiguousarray(reference(rgb[:, ::-1])[..., ::-1])]
        maps = [_at_camera(each, (rows, columns), (75, 101), align_corners) for each in both]
        expected.append(sum(np.exp(m) / np.exp(m).sum(0) for m in maps) / 2)
    network = ConvolutionNetwork(size, align_corners=align_corners)
    found = Inference(network, Mode("whole", scales, True)).labels(image)
    wanted = [*expected, np.mean(expected, 0)] if len(scales) > 1 else expected
    for labels, probabilities in zip(found, wanted, strict=True):
        assert_same_labels(labels, probabilities)


def _at_camera(
    logits: np.ndarray, network: tuple[int, int], camera: tuple[int, int], align_corners: bool
) -> np.ndarray:
    """(C, H, W) float64 at the centres of the camera's pixels, one pixel after another along each axis."""
    for axis in (0, 1):
        cells, out = logits.shape[axis + 1], []
        for pixel in range(camera[axis]):
            centre = (pixel + 0.5) * network[axis] / camera[axis]
            if align_corners:
                position = (centre - 0.5) * (cells - 1) / (network[axis] - 1)
            else:
                position = centre * cells / network[axis] - 0.5
            position = min(max(position, 0.0), cells - 1.0)
            low = min(math.floor(position), cells - 2)
            share = position - low
            out.append((1 - share) * logits.take(low, axis + 1) + share * logits.take(low + 1, axis + 1))
        logits = np.stack(out, axis + 1)
    return logits


@pytest.mark.parametrize("align_corners", [False, True])
def test_one_window_at_one_scale_equals_the_whole_picture(align_corners: bool) -> None:
    from runtime.labels import from_logits

    image, size = picture(48, 64), (48, 64)
    network = ConvolutionNetwork(size, align_corners=align_corners)
    [slid] = Inference(network, Mode("slide")).labels(image)
    assert network.calls == 1
    rgb = np.ascontiguousarray(image[..., ::-1])
    expected = window_probabilities(rgb, align_corners, False)
    plain = from_logits(network.infer(rgb[None])[0], size, align_corners)
    assert_same_labels(slid, expected)
    assert_same_labels(plain, expected)
    assert (slid == plain).mean() > 0.999  # float32 decides where two classes cross


@pytest.mark.parametrize("fit", ["letterbox", "crop"])
def test_pixels_that_the_network_does_not_see_stay_without_a_label(fit: str) -> None:
    image, network = picture(40, 120), ConvolutionNetwork((48, 64))
    found = Inference(network, Mode("whole", (1.0, 1.5), True), fit).labels(image)
    for labels in found:
        outside = labels == 255
        assert outside.any() == (fit == "crop")
        assert not outside[:, 40:80].any()
    view = Whole(network, image, fit, False)
    assert (view.seen(0, 40) == (found[0] != 255)).all()


@pytest.mark.parametrize("stride", STRIDES)
def test_windows_cover_every_pixel_and_end_flush(stride: float) -> None:
    random = np.random.default_rng(0)
    for _ in range(300):
        window = int(random.integers(1, 80))
        length = window + int(random.integers(0, 200))
        starts = window_starts(length, window, stride)
        covered = np.zeros(length, int)
        for start in starts:
            assert 0 <= start <= length - window
            covered[start : start + window] += 1
        assert covered.min() >= 1 and starts[0] == 0 and starts[-1] == length - window
        steps = np.diff(starts)
        assert (steps[:-1] == math.ceil(window * stride)).all() and (steps >= 1).all()


class LabelNetwork(ConvolutionNetwork):
    gives = "labels"


class ProbabilityNetwork(ConvolutionNetwork):
    """A guest whose output is not to be normalised again."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__(size)
        self.spec.output_kind = "probabilities"  # type: ignore[attr-defined]

    def infer(self, images: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-super().infer(images)))


def test_probabilities_of_a_guest_are_averaged_as_they_are() -> None:
    image, network = picture(48, 64), ProbabilityNetwork((48, 64))
    rgb = np.ascontiguousarray(image[..., ::-1])
    both = [1 / (1 + np.exp(-3 * reference(each))) for each in (rgb, rgb[:, ::-1])]
    mean = (both[0] + both[1][..., ::-1]) / 2
    expected = upsampled(np.ascontiguousarray(mean), (48, 64), False)[0].numpy()
    [labels] = Inference(network, Mode("slide", flip=True)).labels(image)
    assert_same_labels(labels, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tiled",), "choose one of whole, slide"), (("whole", "1", False, "32x48"), "add --mode slide"),
        (("whole", "1", False, None, 0.5), "add --mode slide"), (("slide", "1", False, None, 0.0), "stride is 0"),
        (("slide", "1", False, None, 1.5), "stride is 1.5"), (("slide", "0,1"), "above 0"), (("slide", "1,1"), "once"),
        (("slide", "half"), "--scales"), (("slide", "nan"), "above 0"), (("slide", "1", False, "32"), "HEIGHTxWIDTH"),
    ],
)  # fmt: skip
def test_modes_that_mean_nothing_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(PspnetError, match=message) as error:
        mode_from_text(*arguments)
    assert "\n" not in str(error.value)


def test_what_a_network_cannot_do_is_refused() -> None:
    with pytest.raises(PspnetError, match="gives labels, not logits"):
        Inference(LabelNetwork((48, 64)), Mode("whole", flip=True))
    with pytest.raises(PspnetError, match="leave out --fit"):
        Inference(ConvolutionNetwork((48, 64)), Mode("slide"), "letterbox")
