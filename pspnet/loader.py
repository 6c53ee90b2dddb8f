"""A data set as batches of tensors."""

from __future__ import annotations

import os

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from pspnet.dataset import Dataset
from pspnet.errors import PspnetError
from pspnet.transforms import TrainTransform


class TrainPairs(TorchDataset):
    """Augmented (picture (3, h, w) float32, labels (h, w) int64) pairs of a data set."""

    def __init__(self, dataset: Dataset, transform: TrainTransform) -> None:
        self.dataset, self.transform = dataset, transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, labels = self.dataset.read(index)
        rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        return self.transform(torch.from_numpy(rgb).permute(2, 0, 1), torch.from_numpy(labels))


def train_loader(pairs: TrainPairs, batch: int, workers: int, seed: int) -> DataLoader:
    """Shuffled batches for one epoch; order and augmentation follow from `seed`. An incomplete last batch is left out.

    One picture alone cannot normalise the 1x1 bin, so a batch holds 2 or more.
    """
    if batch < 2:
        raise PspnetError(f"batch is {batch}: batch norm in the 1x1 bin needs 2 or more. Use --batch 2")
    if len(pairs) < batch:
        raise PspnetError(f"the training split has {len(pairs)} images, fewer than a batch of {batch}: lower --batch")
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(
        pairs, batch, shuffle=True, drop_last=True, num_workers=workers, generator=generator,
        worker_init_fn=_one_thread, pin_memory=torch.cuda.is_available(),
    )  # fmt: skip


def default_workers() -> int:
    """Workers that decode without taking the cores from training on a CPU."""
    cores = os.cpu_count() or 1
    return min(8, cores) if torch.cuda.is_available() else max(cores // 2, 1)


def _one_thread(worker: int) -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
