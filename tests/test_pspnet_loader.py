"""Which pictures a step sees: the order, its division over processes and steps, and the workers that do not matter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pspnet import loader
from pspnet.dataset import open_dataset
from pspnet.errors import PspnetError
from pspnet.loader import Draw, EpochBatches, TrainPairs, default_workers, drawn, train_loader
from pspnet.recipe import TrainConfig
from pspnet.spec import IGNORE
from pspnet.transforms import TrainTransform
from tests.nets import random_model


def epoch(number: int, length: int = 23, first_step: int = 0, **changes: int) -> list[list[Draw]]:
    """All batches of one epoch."""
    settings = {"batch": 2, "accumulate": 1, "seed": 5, **changes}
    batches = EpochBatches(length, **settings)
    batches.epoch, batches.first_step = number, first_step
    result = list(batches)
    assert len(batches) == len(result)
    return result


def test_an_epoch_holds_every_pair_once_in_an_order_of_its_own() -> None:
    drawn_pairs = [draw for batch in epoch(0, batch=1) for draw in batch]
    assert sorted(index for index, _ in drawn_pairs) == list(range(23))
    assert len({seed for _, seed in drawn_pairs}) == 23
    assert epoch(0) == epoch(0) and epoch(0) != epoch(1) and epoch(0) != epoch(0, seed=6)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_processes_divide_the_batches_of_one_process(accumulate: int) -> None:
    whole = epoch(2, batch=6, accumulate=accumulate)
    parts = [epoch(2, batch=2, accumulate=accumulate, rank=rank, world=3) for rank in range(3)]
    assert [a + b + c for a, b, c in zip(*parts, strict=True)] == whole
    assert len(whole) == 23 // (6 * accumulate) * accumulate  # no step with fewer pictures


def test_a_resumed_epoch_leaves_out_the_steps_that_are_done() -> None:
    for accumulate in (1, 2):
        whole = epoch(4, accumulate=accumulate)
        assert epoch(4, accumulate=accumulate, first_step=3) == whole[3 * accumulate :]


def pairs(camvid: Path) -> TrainPairs:
    """The repository's training pairs, augmented to 48 pixels."""
    spec, _ = random_model("resnet18", 32, (192, 192))
    return TrainPairs(open_dataset("camvid11", camvid, "train"), TrainTransform(spec, TrainConfig(crop=48)))


def test_workers_do_not_change_the_batches(camvid_tiny: Path) -> None:
    found = []
    for workers in (0, 2):
        batches = EpochBatches(8, 2, 1, seed=1)
        found.append(list(drawn(train_loader(pairs(camvid_tiny), batches, workers))))
    for (images, labels, indices), others in zip(*found, strict=True):
        assert torch.equal(images, others[0]) and torch.equal(labels, others[1]) and torch.equal(indices, others[2])
        assert images.shape == (2, 3, 48, 48) and images.dtype == torch.float32
        assert labels.shape == (2, 48, 48) and labels.dtype == torch.int64
        assert set(labels.unique().tolist()) <= {*range(11), IGNORE}
    order = [int(index) for _, _, indices in found[0] for index in indices]
    assert order == [index for batch in EpochBatches(8, 2, 1, seed=1) for index, _ in batch]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_worker_comes_out_as_one_line(camvid_tiny: Path, workers: int) -> None:
    broken = pairs(camvid_tiny)
    object.__setattr__(broken.dataset, "images", (Path("nowhere.png"), *broken.dataset.images[1:]))
    with pytest.raises(PspnetError, match=r"nowhere\.png") as caught:
        list(drawn(train_loader(broken, EpochBatches(8, 2, 1, seed=1), workers)))
    assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize(("cores", "cuda", "processes", "expected"), [
    (2, False, 1, 1), (1, False, 1, 1), (16, False, 1, 8), (16, True, 1, 8), (16, True, 4, 4), (4, True, 8, 1),
])  # fmt: skip
def test_default_workers_share_the_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, cuda: bool, processes: int, expected: int
) -> None:
    monkeypatch.setattr(loader.os, "cpu_count", lambda: cores)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    assert default_workers(processes) == expected
