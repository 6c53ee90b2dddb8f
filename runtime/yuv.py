"""BGR pictures of the YUV formats in which cameras deliver: NV12, YUYV, UYVY; BT.601 or BT.709; limited or full range.

R, G and B follow from the luma weights of Rec. ITU-R BT.601-7 and BT.709-6 and the 8-bit ranges of both: limited range
has Y in 16..235 and chroma in 16..240, full range (JPEG, many USB cameras) 0..255. A pixel has the chroma of its
sample, not interpolated.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from pspnet.errors import PspnetError

LUMA_WEIGHTS = {"601": (0.299, 0.114), "709": (0.2126, 0.0722)}
"""Matrix -> the weights of red and blue in Y; green has the rest."""

FORMATS = ("nv12", "yuyv", "uyvy")


def size_of(image: np.ndarray, layout: str) -> tuple[int, int]:
    """(height, width) in pixels of a YUV picture; PspnetError where its array cannot be one.

    nv12: (H * 3 / 2, W) uint8, H rows of Y, then H / 2 rows of interleaved U and V. yuyv, uyvy: (H, W, 2) uint8.
    """
    if layout == "nv12":
        height, width = image.shape[0] * 2 // 3, image.shape[1]
        sound = image.ndim == 2 and image.shape[0] % 3 == 0 and width % 2 == 0
    else:
        height, width = image.shape[:2]
        sound = image.ndim == 3 and image.shape[2] == 2 and width % 2 == 0
    if not sound or image.dtype != np.uint8:
        raise PspnetError(
            f"a {layout} picture is {image.dtype} {image.shape}: needed is uint8, (H * 3 / 2, W) for nv12 or (H, W, 2) "
            "for yuyv and uyvy, with even sides. Ask the camera for another size"
        )
    return height, width


class Scratch:
    """Memory for the steps of a conversion, kept from one picture to the next of the same size and layout."""

    def __init__(self) -> None:
        self.chroma = self.spread = np.empty((0, 0, 2), np.uint8)
        self.planes = np.empty((0, 0, 3), np.uint8)

    def fit(self, height: int, width: int, chroma_height: int) -> None:
        """Make room for (height, width) pixels whose chroma has `chroma_height` rows of half the width."""
        if self.planes.shape[:2] != (height, width) or len(self.chroma) != chroma_height:
            self.chroma = np.empty((chroma_height, width // 2, 2), np.uint8)
            self.spread = np.empty((height, width, 2), np.uint8)
            self.planes = np.empty((height, width, 3), np.uint8)


def bgr_from_yuv(
    image: np.ndarray,
    layout: str,
    matrix: str = "601",
    full_range: bool = False,
    out: np.ndarray | None = None,
    scratch: Scratch | None = None,
) -> np.ndarray:
    """(H, W, 3) uint8 BGR, within 0.9 of the exact value, of a YUV picture as in `size_of`; into `out` where given.

    scratch: memory for the steps, so that with `out` no picture is allocated.
    """
    height, width = size_of(image, layout)
    scratch = scratch or Scratch()
    scratch.fit(height, width, height // 2 if layout == "nv12" else height)
    if layout == "nv12":
        luma, luma_band = image[:height], 0
        chroma = image[height:].reshape(height // 2, width // 2, 2)
    else:
        luma, luma_band = image, 0 if layout == "yuyv" else 1
        # One U and one V for each two pixels, on either side of which Y lies.
        first, chroma = 1 - luma_band, scratch.chroma
        cv2.mixChannels([image.reshape(height, width // 2, 4)], [chroma], [first, 0, first + 2, 1])
    cv2.resize(chroma, (width, height), dst=scratch.spread, interpolation=cv2.INTER_NEAREST)
    bands = 1 if luma.ndim == 2 else 2
    cv2.mixChannels([luma, scratch.spread], [scratch.planes], [luma_band, 0, bands, 1, bands + 1, 2])
    return cv2.transform(scratch.planes, bgr_matrix(matrix, full_range), dst=out)


@lru_cache
def bgr_matrix(matrix: str, full_range: bool) -> np.ndarray:
    """(3, 4) float64: B, G and R as weights of Y, U, V and 1, all in 0..255."""
    if matrix not in LUMA_WEIGHTS:
        raise PspnetError(f"colour matrix is {matrix!r}: choose one of {', '.join(LUMA_WEIGHTS)}")
    red, blue = LUMA_WEIGHTS[matrix]
    green = 1 - red - blue
    luma_gain, chroma_gain, black = (1.0, 1.0, 0.0) if full_range else (255 / 219, 255 / 224, 16.0)
    u_blue, v_red = 2 * (1 - blue) * chroma_gain, 2 * (1 - red) * chroma_gain
    u_green, v_green = -u_blue * blue / green, -v_red * red / green
    weights = np.array([[luma_gain, u_blue, 0], [luma_gain, u_green, v_green], [luma_gain, 0, v_red]])
    return np.column_stack([weights, -weights @ np.array([black, 128, 128])])
