"""The record of a training run: metrics.csv, curves.png and TensorBoard events with the same pictures each epoch."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pspnet.files import atomic_path

PANELS = (
    ("loss", "training loss"), ("miou", "validation mIoU [%]"), ("lr", "learning rate"), ("step_ms", "step time [ms]"),
)  # fmt: skip


class RunLog:
    """Writes to the folder of a run; a context manager. Without TensorBoard it says so once and does the rest."""

    def __init__(self, folder: Path, steps_done: int) -> None:
        """steps_done: optimiser steps before a resumed run begins; later events of the run before it are hidden."""
        self.folder = folder
        self._writer = _summary_writer(folder / "tensorboard", steps_done)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *error: object) -> None:
        if self._writer:
            self._writer.close()

    def step(self, number: int, loss: float, rate: float) -> None:
        """Loss and learning rate of one optimiser step, counted from the run's begin."""
        if self._writer:
            self._writer.add_scalar("train/loss", loss, number)
            self._writer.add_scalar("train/lr", rate, number)

    def epoch(self, history: Sequence[Mapping[str, Any]], number: int, pictures: Mapping[str, np.ndarray]) -> None:
        """The epochs so far, one row of numbers each, and pictures (H, W, 3) uint8 RGB by name after step `number`."""
        if not history:
            return
        write_csv(self.folder / "metrics.csv", history)
        write_curves(self.folder / "curves.png", history)
        if self._writer:
            for name in ("miou", "pixel_accuracy"):
                self._writer.add_scalar(f"val/{name}", history[-1][name], number)
            for name in ("step_ms", "data_ms"):
                self._writer.add_scalar(f"time/{name}", history[-1][name], number)
            for name, picture in pictures.items():
                self._writer.add_image(f"val/{name}", picture, number, dataformats="HWC")
            self._writer.flush()


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """The rows with a header of their keys."""
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_curves(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Loss, mIoU, learning rate and step time over the epochs as one PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    epochs = [row["epoch"] for row in rows]
    figure, axes = plt.subplots(2, 2, figsize=(9, 6), layout="constrained", sharex=True)
    for axis, (name, title) in zip(axes.flat, PANELS, strict=True):
        axis.plot(epochs, [row[name] for row in rows], marker="." if len(rows) < 30 else "")
        axis.set(xlabel="epoch", ylabel=title)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
    plt.close(figure)


def _summary_writer(folder: Path, steps_done: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        print("TensorBoard is not installed, so no events are written: pip install 'pspnet-edge[train]'")
        return None
    return SummaryWriter(str(folder), purge_step=steps_done + 1 if steps_done else None)
