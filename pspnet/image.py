"""Reading pictures and label maps, strictly: what is not an 8-bit picture is refused by name."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from pspnet.errors import PspnetError
from pspnet.files import atomic_path

JPEG, PNG = b"\xff\xd8", b"\x89PNG"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm")


def read_image(path: str | Path) -> np.ndarray:
    """(H, W, 3) uint8 BGR, turned upright as its EXIF entry says; a grey picture is repeated to three bands.

    Refuses 16-bit and four-band pictures and files that are cut short: a guess would change what the network sees.
    """
    image = _decode(path, "image")
    if image.dtype != np.uint8:
        raise PspnetError(f"{path} is a {8 * image.itemsize}-bit image: 8 bits a band are needed. Convert it first")
    if image.ndim == 2:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    if image.shape[2] != 3:
        raise PspnetError(
            f"{path} has {image.shape[2]} bands: 3 (colour) or 1 (grey) are needed. Remove the alpha band"
        )
    return image


def read_labels(path: str | Path) -> np.ndarray:
    """(H, W) uint8 class indices, exactly as stored."""
    labels = _decode(path, "label map")
    depth = _png_depth(path)
    if depth not in (None, 8):
        raise PspnetError(f"label map {path} is a PNG of {depth} bits a pixel: 8 bits with class indices are needed")
    if _png_colour_type(path) == 3:  # OpenCV gives the palette's colours, and the indices are lost
        raise PspnetError(
            f"label map {path} is a PNG with a palette: store the class indices as one 8-bit band, with Pillow: "
            "Image.fromarray(np.array(image)).save(path)"
        )
    if labels.ndim != 2 or labels.dtype != np.uint8:
        bands = 1 if labels.ndim == 2 else labels.shape[2]
        raise PspnetError(
            f"label map {path} has {bands} band(s) of {8 * labels.itemsize} bits: one 8-bit band with class "
            "indices is needed"
        )
    return labels


def write_image(path: str | Path, image: np.ndarray, *options: int) -> None:
    """Write a picture in the format of the suffix, whole or not at all; `options` are OpenCV's imwrite flags."""
    with atomic_path(path) as temporary:
        if not cv2.imwrite(str(temporary), image, list(options)):
            raise PspnetError(f"OpenCV cannot write {path}: choose a suffix such as .png or .jpg")


def _decode(path: str | Path, what: str) -> np.ndarray:
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PspnetError(f"cannot read {what} {path}: {error.strerror or error}") from error
    # Only a JPEG has an EXIF orientation, which OpenCV applies when it decodes to colour; others keep their bands.
    mode = cv2.IMREAD_COLOR if data.startswith(JPEG) else cv2.IMREAD_UNCHANGED
    try:
        image = None if _is_cut_short(data) or not data else cv2.imdecode(np.frombuffer(data, np.uint8), mode)
    except cv2.error:  # a header that promises more pixels than OpenCV allows
        image = None
    if image is None:
        raise PspnetError(f"{what} {path} is corrupt or not a picture ({len(data)} bytes). Replace or remove the file")
    return image


def _is_cut_short(data: bytes) -> bool:
    # OpenCV fills the missing rest of a truncated JPEG or PNG with grey and reports no error, so look for the end mark.
    if data.startswith(JPEG):
        return b"\xff\xd9" not in data[-4096:]
    return data.startswith(PNG) and b"IEND" not in data[-4096:]


def _png_depth(path: str | Path) -> int | None:
    """Bits a pixel and band of a PNG, before OpenCV stretches 1, 2 and 4 bits to 0..255; None for other formats."""
    header = _png_header(path)
    return header[24] if header else None


def _png_colour_type(path: str | Path) -> int | None:
    """0 grey, 2 colour, 3 palette, 4 grey and 6 colour with alpha; None for other formats."""
    header = _png_header(path)
    return header[25] if header else None


def _png_header(path: str | Path) -> bytes:
    with open(path, "rb") as file:
        header = file.read(26)
    return header if header.startswith(PNG) else b""
