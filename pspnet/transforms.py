"""Training augmentation on (picture, label map) pairs, built from torchvision.transforms.v2."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from pspnet.geometry import Geometry
from pspnet.spec import IGNORE, ModelSpec


class RandomScale:
    """Resizes a pair to the network's scale times a random factor.

    The network's scale is that of the model's `fit`, so that training sees objects as large as inference does.
    """

    def __init__(self, spec: ModelSpec, smallest: float, largest: float) -> None:
        self.spec, self.smallest, self.largest = spec, smallest, largest

    def __call__(self, image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        height, width = image.shape[-2:]
        factor = float(torch.empty(1).uniform_(self.smallest, self.largest))
        base = Geometry((height, width), self.spec.input_size, self.spec.fit).resized
        size = [max(round(side * factor), 1) for side in base]
        resize = v2.functional.resize
        return (
            resize(image, size, interpolation=v2.InterpolationMode.BILINEAR, antialias=True),
            resize(labels, size, interpolation=v2.InterpolationMode.NEAREST),
        )


class TrainTransform:
    """Random scale, crop, flip and photometric change, then normalisation.

    Takes a picture (3, H, W) uint8 RGB and labels (H, W) uint8; returns the picture (3, *crop) float32, normalised with
    the model's mean and std, and labels (*crop) int64. Where a scaled pair is smaller than the crop, the picture is
    padded with the mean and the labels with 255 (hszhao/semseg).
    """

    def __init__(self, spec: ModelSpec, crop: tuple[int, int], scales: tuple[float, float], photometric: bool) -> None:
        self.scale = RandomScale(spec, *scales)
        grey = tuple(round(value) for value in spec.mean)
        fill = {tv_tensors.Image: grey, tv_tensors.Mask: IGNORE}
        self.augment = v2.Compose(
            [
                v2.RandomCrop(crop, pad_if_needed=True, fill=fill),
                v2.RandomHorizontalFlip(),
                *([v2.RandomPhotometricDistort()] if photometric else []),
            ]
        )
        self.mean = torch.tensor(spec.mean).view(3, 1, 1)
        self.std = torch.tensor(spec.std).view(3, 1, 1)

    def __call__(self, image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        pair = self.scale(tv_tensors.Image(image), tv_tensors.Mask(labels))
        image, labels = self.augment(*pair)
        return (image.float() - self.mean) / self.std, labels.long()
