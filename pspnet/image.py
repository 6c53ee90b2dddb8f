"""Reading pictures and label maps, strictly: what is not an 8-bit picture is refused by name."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from pspnet.errors import PspnetError
from pspnet.files import atomic_path

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm")


def read_image(path: str | Path) -> np.ndarray:
    """(H, W, 3) uint8 BGR, as OpenCV decodes it; a grey picture is repeated to three bands.

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
    image = (
        None if _is_cut_short(data) or not data else cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    )
    if image is None:
        raise PspnetError(f"{what} {path} is corrupt or not a picture ({len(data)} bytes). Replace or remove the file")
    return image


def _is_cut_short(data: bytes) -> bool:
    # OpenCV fills the missing rest of a truncated JPEG or PNG with grey and reports no error, so look for the end mark.
    if data.startswith(b"\xff\xd8"):
        return b"\xff\xd9" not in data[-4096:]
    return data.startswith(b"\x89PNG") and b"IEND" not in data[-4096:]
