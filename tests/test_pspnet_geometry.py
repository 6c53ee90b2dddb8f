"""The map between camera and network: there and back, and the picture itself against plain OpenCV calls."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pspnet.errors import PspnetError
from pspnet.geometry import Geometry, region_from_text
from pspnet.spec import FITS

NETWORK = (180, 320)
CAMERAS = {"16:9": (540, 960), "4:3": (480, 640)}
REGION = (100, 80, 300, 400)
PAD = (10, 20, 30)
HALF_PIXEL = 0.5  # of the network: a mark cannot be placed more exactly than the pixels that show it
ROUND_TRIP = 1e-9  # pixels, float64


def marked(camera: tuple[int, int], y: int, x: int) -> np.ndarray:
    """A black picture with a white square of 24 pixels whose centre is (y, x)."""
    image = np.zeros((*camera, 3), np.uint8)
    image[y - 12 : y + 12, x - 12 : x + 12] = 255
    return image


def centroid(image: np.ndarray) -> tuple[float, float]:
    """Centre of brightness in pixel-edge coordinates."""
    weights = image[..., 0].astype(float)
    rows, columns = np.indices(weights.shape) + 0.5
    return (rows * weights).sum() / weights.sum(), (columns * weights).sum() / weights.sum()


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("region", [None, REGION], ids=["whole", "region"])
@pytest.mark.parametrize("camera", CAMERAS.values(), ids=CAMERAS.keys())
@pytest.mark.parametrize("mark", [(250, 300), (180, 200), (310, 420)])
def test_a_marked_pixel_goes_through_and_back(
    camera: tuple[int, int], region: tuple[int, int, int, int] | None, fit: str, mark: tuple[int, int]
) -> None:
    geometry = Geometry(camera, NETWORK, fit, region)
    y, x = geometry.network_from_camera(*mark)
    seen = centroid(geometry.network_image(marked(camera, *mark), (0, 0, 0)))
    np.testing.assert_allclose(seen, (y, x), atol=HALF_PIXEL)
    np.testing.assert_allclose(geometry.camera_from_network(y, x), mark, atol=ROUND_TRIP)


@pytest.mark.parametrize("region", [None, REGION], ids=["whole", "region"])
@pytest.mark.parametrize("camera", CAMERAS.values(), ids=CAMERAS.keys())
@pytest.mark.parametrize("fit", FITS)
def test_network_image_equals_plain_opencv(
    camera: tuple[int, int], fit: str, region: tuple[int, int, int, int] | None
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*camera, 3), np.uint8)
    top, left, height, width = region or (0, 0, *camera)
    view = image[top : top + height, left : left + width]
    if fit == "stretch":
        expected = cv2.resize(view, NETWORK[::-1], interpolation=cv2.INTER_LINEAR)
    else:
        ratios = NETWORK[0] / height, NETWORK[1] / width
        ratio = min(ratios) if fit == "letterbox" else max(ratios)
        expected = cv2.resize(view, (round(width * ratio), round(height * ratio)), interpolation=cv2.INTER_LINEAR)
        rows, columns = NETWORK[0] - expected.shape[0], NETWORK[1] - expected.shape[1]
        if fit == "letterbox":
            borders = rows // 2, rows - rows // 2, columns // 2, columns - columns // 2
            expected = cv2.copyMakeBorder(expected, *borders, cv2.BORDER_CONSTANT, value=PAD)
        else:
            first_row, first_column = -(rows // 2), -(columns // 2)
            expected = expected[first_row : first_row + NETWORK[0], first_column : first_column + NETWORK[1]]
    geometry, out = Geometry(camera, NETWORK, fit, region), np.full((*NETWORK, 3), 99, np.uint8)
    np.testing.assert_array_equal(geometry.network_image(image, PAD), expected)
    assert geometry.network_image(image, PAD, out) is out
    np.testing.assert_array_equal(out, expected)


def test_letterbox_pads_with_the_given_colour_on_both_sides() -> None:
    network = Geometry((480, 640), NETWORK, "letterbox").network_image(np.zeros((480, 640, 3), np.uint8), PAD)
    np.testing.assert_array_equal(network[:, :40], np.broadcast_to(np.uint8(PAD), (180, 40, 3)))
    np.testing.assert_array_equal(network[:, -40:], np.broadcast_to(np.uint8(PAD), (180, 40, 3)))
    assert not network[:, 40:-40].any()


@pytest.mark.parametrize("fit", ["letterbox", "crop"])
def test_letterbox_and_crop_keep_the_aspect(fit: str) -> None:
    (rows, _), (columns, _) = Geometry((481, 641), NETWORK, fit).axis_maps
    assert rows == pytest.approx(columns, rel=0.5 / 180)  # half a pixel of rounding on the shorter side


@pytest.mark.parametrize(
    "region", [(-1, 0, 10, 10), (0, -1, 10, 10), (0, 0, 0, 10), (0, 0, 10, 0), (471, 0, 10, 10), (0, 631, 10, 10)]
)
def test_a_region_outside_the_picture_is_refused(region: tuple[int, int, int, int]) -> None:
    with pytest.raises(PspnetError, match=r"not inside the picture of 480x640"):
        Geometry((480, 640), NETWORK, "stretch", region)


def test_an_unknown_fit_and_a_picture_of_another_size_are_refused() -> None:
    with pytest.raises(PspnetError, match="stretch, letterbox, crop"):
        Geometry((480, 640), NETWORK, "squeeze")
    with pytest.raises(PspnetError, match="240x320"):
        Geometry((480, 640), NETWORK).network_image(np.zeros((240, 320, 3), np.uint8), PAD)


def test_region_from_text() -> None:
    assert region_from_text("540x960+180+160") == (180, 160, 540, 960)
    for text in ("540x960", "540x960+1", "axb+1+2", "540+960+1+2", ""):
        with pytest.raises(PspnetError, match="HEIGHTxWIDTH"):
            region_from_text(text)
