"""Pictures without labels beside a data set's pairs: distillation learns from them, the labels' losses do not."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from pspnet.dataset import Dataset, list_images
from pspnet.errors import PspnetError
from pspnet.files import atomic_folder, sha256_of
from pspnet.image import read_image, write_image
from pspnet.spec import IGNORE

JPEG_QUALITY = 95  # a clip's frames have been through a lossy codec already


@dataclass(frozen=True)
class PartlyLabelled(Dataset):
    """A data set with more pictures than labels: those after the last label have none."""

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Picture (H, W, 3) uint8 BGR and labels (H, W) uint8, all of them 255 where the picture has none."""
        if index < len(self.labels):
            return super().read(index)
        image = read_image(self.images[index])
        return image, np.full(image.shape[:2], IGNORE, np.uint8)


def with_unlabelled(dataset: Dataset, pictures: Iterable[Path]) -> PartlyLabelled:
    """`dataset` with further pictures; every epoch draws each of them once, like the pairs."""
    fields = {field.name: getattr(dataset, field.name) for field in dataclasses.fields(dataset)}
    return PartlyLabelled(**fields | {"images": (*dataset.images, *pictures)})


def pictures_of_folder(folder: Path) -> list[Path]:
    """The pictures of a folder, or of the folder images in it, by name."""
    inner = folder / "images" if (folder / "images").is_dir() else folder
    if not (pictures := list_images(inner)):
        raise PspnetError(f"{inner} holds no picture: give a folder of pictures or a clip with --unlabelled")
    return pictures


def folder_of_clip(clip: Path, parent: Path, every: int) -> Path:
    """Where the frames of a clip are kept, below `parent`; another clip or stride has another folder."""
    return parent / f"unlabelled-{clip.stem}-{sha256_of(clip)[:8]}-every{every}"


def write_frames(frames: Iterable[np.ndarray], folder: Path, every: int) -> None:
    """Write every so-manieth frame (H, W, 3) uint8 BGR as a JPEG; the folder is whole or absent."""
    if every < 1:
        raise PspnetError(f"--unlabelled-every is {every}: give 1 (every frame of a clip) or more")
    with atomic_folder(folder) as temporary:
        for number, frame in enumerate(frames):
            if number % every == 0:
                write_image(temporary / f"{number:06d}.jpg", frame, cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY)
