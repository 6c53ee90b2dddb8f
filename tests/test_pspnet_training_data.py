"""What is wrong with the pictures of a training run shows before its first step."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from pspnet import training_data
from pspnet.cli import main
from pspnet.dataset import Dataset, open_dataset
from pspnet.dataset_labels import LabelReader
from pspnet.errors import PspnetError
from pspnet.training_data import check_labelled, facts_of, labelled_pairs, spread_indices

VOID = 11  # in the files of camvid11
SHORT = ["--weights", "none", "--bins", "1,2", "--output-stride", "32", "--size", "64x96", "--crop", "64"]
SHORT += ["--batch", "4", "--epochs", "1", "--workers", "0"]


@pytest.fixture
def data(camvid_tiny: Path, tmp_path: Path) -> Path:
    """A copy of the repository's pairs that a test may break."""
    return Path(shutil.copytree(camvid_tiny, tmp_path / "data"))


def labels_of(data: Path, split: str) -> list[Path]:
    return sorted((data / split / "labels").iterdir())


def paint(path: Path, value: int) -> None:
    """A label map of one value."""
    cv2.imwrite(str(path), np.full((360, 480), value, np.uint8))


def refusal(data: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The line of a run that is refused before it has written anything."""
    capsys.readouterr()
    assert main(["train", "--data", str(data), "-o", str(output), *SHORT]) == 2
    error = capsys.readouterr().err.rpartition("\r")[2]
    assert error.startswith("pspnet: ") and error.count("\n") == 1 and not output.exists()
    return error


@pytest.mark.parametrize(
    ("fault", "message"), [("value", "holds the value 77"), ("cut", "is corrupt"), ("void", "validation needs")]
)
def test_a_fault_in_the_validation_split_shows_at_the_start(
    fault: str, message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = labels_of(data, "val")
    if fault == "value":
        paint(labels[-1], 77)
    elif fault == "cut":
        picture = sorted((data / "val" / "images").iterdir())[-1]
        picture.write_bytes(picture.read_bytes()[:-2000])
    else:
        for path in labels:
            paint(path, VOID)
    assert message in refusal(data, tmp_path / "run", capsys)


def test_a_training_split_without_labelled_pixels_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in labels_of(data, "train"):
        paint(path, VOID)
    error = refusal(data, tmp_path / "run", capsys)
    assert f"no pixel of {data} (train) has a class: training needs labelled pixels" in error
    assert f"pspnet doctor --data {data}" in error


def test_looking_for_labels_ends_with_the_first(dataset: Dataset) -> None:
    read: list[Path] = []

    @dataclasses.dataclass(frozen=True)
    class Counted:
        real: LabelReader

        def read(self, path: Path) -> np.ndarray:
            read.append(path)
            labels = self.real.read(path)
            return labels if len(read) > 2 else np.full_like(labels, 255)

    check_labelled(dataclasses.replace(dataset, reader=Counted(dataset.reader)))
    assert read == list(dataset.labels[:3])


def test_pairs_with_labels_are_counted(data: Path) -> None:
    dataset = open_dataset("camvid11", data, "train")
    paint(dataset.labels[1], VOID)
    assert labelled_pairs(dataset, [0, 1, 3]) == 2
    paint(dataset.labels[2], 77)
    with pytest.raises(PspnetError, match=f"{dataset.labels[2].name} holds the value 77"):
        labelled_pairs(dataset, range(4))


@pytest.mark.parametrize("count", [1, 4, 500, 501, 999, 20_000])
def test_large_splits_are_read_in_part(count: int) -> None:
    indices = spread_indices(count)
    assert len(indices) == len(set(indices)) == min(count, training_data.MOST_READ)
    assert (indices[0], indices[-1]) == (0, count - 1) and indices == sorted(indices)
    assert np.ptp(np.diff(indices)) <= 1 if count > 1 else indices == [0]


def test_a_split_is_known_by_its_names_where_it_lies(dataset: Dataset, data: Path) -> None:
    moved = open_dataset("camvid11", data, "train")
    assert facts_of(moved) == facts_of(dataset) and facts_of(dataset)["count"] == 8
    others = [
        dataclasses.replace(dataset, images=images)
        for images in (dataset.images[1:], dataset.images[::-1], (*dataset.images[:7], Path("elsewhere/x.png")))
    ]
    assert len({facts_of(each)["sha256"] for each in (dataset, *others)}) == 4
    lists = dataclasses.replace(dataset, root=data / "train.txt", images=moved.images)
    (data / "train.txt").touch()
    assert facts_of(lists) == facts_of(dataset)
