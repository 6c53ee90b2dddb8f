"""A data set as batches of tensors, the same for any number of workers."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from pspnet.dataset import Dataset
from pspnet.errors import PspnetError
from pspnet.transforms import TrainTransform

Draw = tuple[int, int]
"""Index of a pair, and the seed of its augmentation."""


class TrainPairs(TorchDataset):
    """Augmented (picture (3, h, w) float32, labels (h, w) int64) pairs of a data set."""

    def __init__(self, dataset: Dataset, transform: TrainTransform) -> None:
        self.dataset, self.transform = dataset, transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Tensor]:
        index, seed = draw
        image, labels = self.dataset.read(index)
        rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        with torch.random.fork_rng(
            devices=[]
        ):  # a seed per picture: the result does not depend on which worker draws it
            torch.manual_seed(seed)
            return self.transform(torch.from_numpy(rgb).permute(2, 0, 1), torch.from_numpy(labels))


class EpochSampler(Sampler[Draw]):
    """Every pair once in random order; order and augmentation follow from (seed, epoch) alone."""

    def __init__(self, length: int, seed: int) -> None:
        self.length, self.seed, self.epoch = length, seed, 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Draw]:
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        order = torch.randperm(self.length, generator=generator).tolist()
        seeds = torch.randint(2**62, (self.length,), generator=generator).tolist()
        return iter(zip(order, seeds, strict=True))


def train_loader(pairs: TrainPairs, batch: int, workers: int, seed: int) -> tuple[DataLoader, EpochSampler]:
    """Shuffled batches, and the sampler whose `epoch` is to be set before each pass. An incomplete batch is left out.

    One picture alone cannot normalise the 1x1 bin, so a batch holds 2 or more.
    """
    if batch < 2:
        raise PspnetError(f"batch is {batch}: batch norm in the 1x1 bin needs 2 or more. Use --batch 2")
    if len(pairs) < batch:
        raise PspnetError(f"the training split has {len(pairs)} images, fewer than a batch of {batch}: lower --batch")
    sampler = EpochSampler(len(pairs), seed)
    loader = DataLoader(
        pairs, batch, sampler=sampler, drop_last=True, num_workers=workers, worker_init_fn=_one_thread,
        persistent_workers=workers > 0, pin_memory=torch.cuda.is_available(),
        # A forked worker would inherit OpenCV's thread pool without its threads, and hang.
        multiprocessing_context="spawn" if workers else None,
    )  # fmt: skip
    return loader, sampler


def drawn(loader: DataLoader) -> Iterator[list[Tensor]]:
    """The batches of one pass. A worker's error comes out as itself, and Ctrl-C is the main process's to handle."""
    with _interrupts_ignored():  # workers inherit this: otherwise each of them prints a traceback of its own
        batches = iter(loader)
    try:
        yield from batches
    except PspnetError as error:
        raise PspnetError(str(error).strip().splitlines()[-1].rpartition("PspnetError: ")[2]) from None


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def default_workers() -> int:
    """Workers that decode without taking the cores from training on a CPU."""
    cores = os.cpu_count() or 1
    return min(8, cores) if torch.cuda.is_available() else max(cores // 2, 1)


def _one_thread(worker: int) -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
