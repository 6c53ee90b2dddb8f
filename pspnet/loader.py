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

Batch = list[Tensor]
"""Pictures (N, 3, h, w) float32, labels (N, h, w) int64 and the pairs' indices (N,) int64."""


class TrainPairs(TorchDataset):
    """Augmented (picture (3, h, w) float32, labels (h, w) int64, index) triples of a data set."""

    def __init__(self, dataset: Dataset, transform: TrainTransform) -> None:
        self.dataset, self.transform = dataset, transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, Tensor, int]:
        index, seed = draw
        image, labels = self.dataset.read(index)
        rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        # A seed per picture: the result does not depend on which worker draws it.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            picture, target = self.transform(torch.from_numpy(rgb).permute(2, 0, 1), torch.from_numpy(labels))
        return picture, target, index


class EpochBatches(Sampler[list[Draw]]):
    """Batches of one process: every pair once in random order, which follows from (seed, epoch) alone.

    Process r of w takes pictures r * batch to (r + 1) * batch of each w * batch, so that all processes together see
    the order of one process with the batch w * batch. Only whole optimiser steps of accumulate * w * batch pictures
    are drawn. Set `epoch` and `first_step` (optimiser steps to leave out, for a resumed epoch) before each pass.
    """

    def __init__(self, length: int, batch: int, accumulate: int, seed: int, rank: int = 0, world: int = 1) -> None:
        self.length, self.batch, self.accumulate, self.seed = length, batch, accumulate, seed
        self.rank, self.world = rank, world
        self.epoch = self.first_step = 0

    @property
    def steps(self) -> int:
        """Optimiser steps of a whole epoch."""
        return self.length // (self.batch * self.accumulate * self.world)

    def __len__(self) -> int:
        return (self.steps - self.first_step) * self.accumulate

    def __iter__(self) -> Iterator[list[Draw]]:
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        order = torch.randperm(self.length, generator=generator).tolist()
        seeds = torch.randint(2**62, (self.length,), generator=generator).tolist()
        draws = list(zip(order, seeds, strict=True))
        for number in range(self.first_step * self.accumulate, self.steps * self.accumulate):
            start = (number * self.world + self.rank) * self.batch
            yield draws[start : start + self.batch]


def train_loader(pairs: TrainPairs, batches: EpochBatches, workers: int) -> DataLoader:
    """The batches in the sampler's order, decoded and augmented by `workers` processes (0: in this one)."""
    return DataLoader(
        pairs, batch_sampler=batches, num_workers=workers, worker_init_fn=_one_thread,
        persistent_workers=workers > 0, pin_memory=torch.cuda.is_available(),
        # A forked worker would inherit OpenCV's thread pool without its threads, and hang.
        multiprocessing_context="spawn" if workers else None,
    )  # fmt: skip


def drawn(loader: DataLoader) -> Iterator[Batch]:
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


def default_workers(processes: int = 1) -> int:
    """Workers that decode without taking the cores from training on a CPU, for each of `processes` on the machine."""
    cores = os.cpu_count() or 1
    return max((min(8 * processes, cores) if torch.cuda.is_available() else cores // 2) // processes, 1)


def _one_thread(worker: int) -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
