"""YUV pictures against OpenCV's own conversion and against the formula of the standards in float64."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pspnet.errors import PspnetError
from runtime import yuv
from runtime.frame import Frame

OPENCV = {"nv12": cv2.COLOR_YUV2BGR_NV12, "yuyv": cv2.COLOR_YUV2BGR_YUYV, "uyvy": cv2.COLOR_YUV2BGR_UYVY}
OPENCV_GREY_LEVELS = 1  # OpenCV computes in fixed point
FIXED_POINT = 0.9  # OpenCV's transform rounds to the nearest with weights of 10 bits: 0.5 + 3 * 255 / 2^11
HEIGHT, WIDTH = 18, 26


def picture(layout: str, low: int = 0, high: int = 256) -> np.ndarray:
    shape = (HEIGHT * 3 // 2, WIDTH) if layout == "nv12" else (HEIGHT, WIDTH, 2)
    return np.random.default_rng(5).integers(low, high, shape, dtype=np.uint8)


@pytest.mark.parametrize("layout", yuv.FORMATS)
def test_limited_601_is_what_opencv_gives(layout: str) -> None:
    image = picture(layout)
    ours = yuv.bgr_from_yuv(image, layout).astype(int)
    theirs = cv2.cvtColor(image, OPENCV[layout]).astype(int)
    # Y below black: OpenCV clips it before the chroma is added, the standards do not.
    luma = {"nv12": image[:HEIGHT], "yuyv": image[..., 0], "uyvy": image[..., -1]}[layout]
    assert np.abs(ours - theirs)[luma >= 16].max() <= OPENCV_GREY_LEVELS


def restated(y: float, u: float, v: float, matrix: str, full_range: bool) -> np.ndarray:
    """BGR of one sample after the standards' definition of Y, Cb and Cr, solved backwards."""
    red, blue = {"601": (0.299, 0.114), "709": (0.2126, 0.0722)}[matrix]
    if not full_range:
        y, u, v = (y - 16) / 219, (u - 128) / 224, (v - 128) / 224
    else:
        y, u, v = y / 255, (u - 128) / 255, (v - 128) / 255
    b, r = y + u * 2 * (1 - blue), y + v * 2 * (1 - red)
    g = (y - red * r - blue * b) / (1 - red - blue)
    return np.clip(255 * np.array([b, g, r]), 0, 255)


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", ["601", "709"])
@pytest.mark.parametrize("layout", yuv.FORMATS)
def test_every_pixel_is_that_of_the_standard(layout: str, matrix: str, full_range: bool) -> None:
    image = picture(layout)
    bgr = yuv.bgr_from_yuv(image, layout, matrix, full_range)
    for row, column in [(0, 0), (7, 11), (HEIGHT - 1, WIDTH - 1), (3, 4)]:
        if layout == "nv12":
            chroma = image[HEIGHT + row // 2, column // 2 * 2 :][:2]
            sample = image[row, column], *chroma
        else:
            pair = image[row, column // 2 * 2 :][:2]
            first = 1 if layout == "yuyv" else 0
            sample = image[row, column, 1 - first], pair[0, first], pair[1, first]
        exact = restated(*map(float, sample), matrix, full_range)
        assert np.abs(bgr[row, column] - exact).max() <= FIXED_POINT


def test_frame_knows_its_size_and_writes_into_a_given_array() -> None:
    frame = Frame(picture("nv12"), "nv12", "front", 0, 0, 0, matrix="709", full_range=True)
    out = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    assert frame.size == (HEIGHT, WIDTH)
    assert frame.bgr(out) is out
    assert np.array_equal(out, yuv.bgr_from_yuv(frame.image, "nv12", "709", True))


@pytest.mark.parametrize(
    ("shape", "layout"), [((20, 26), "nv12"), ((18, 25), "nv12"), ((18, 26, 3), "yuyv"), ((18, 25, 2), "uyvy")]
)
def test_arrays_that_are_no_such_picture_are_refused(shape: tuple[int, ...], layout: str) -> None:
    with pytest.raises(PspnetError, match=layout):
        yuv.size_of(np.zeros(shape, np.uint8), layout)


def test_an_unknown_matrix_is_refused() -> None:
    with pytest.raises(PspnetError, match="2020"):
        yuv.bgr_matrix("2020", False)
