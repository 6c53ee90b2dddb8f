"""--select to the end: cameras of which a network is unsure become the pairs of the next round of training."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from pspnet.cli import main
from pspnet.dataset import open_dataset
from pspnet.image import read_labels
from pspnet.loader import EpochBatches, TrainPairs, drawn, train_loader
from pspnet.recipe import TrainConfig
from pspnet.spec import IGNORE
from pspnet.transforms import TrainTransform
from runtime.frame import Frame
from runtime.record import LOW_CONFIDENCE
from runtime.runner import open_runner
from runtime.segmenter import CpuSegmenter
from runtime.sink_select import DOUBTFUL_SHARE
from tests.nets import CLIP, random_model

CAMERAS = 3
DECODED_SHARE = 0.1
"""Of the labels may differ where the saved picture is segmented again: JPEG moves what a network is unsure of."""
PATIENCE_S = 60

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def selected(small_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run over two patterns and the shipped clip keeps; its network has random weights."""
    folder = tmp_path_factory.mktemp("selected") / "hard"
    addresses = [f"test://pattern?size={size}&fps=10&seed={seed}" for seed, size in enumerate(("96x128", "120x160"))]
    addresses.append(f"test://{CLIP}?fps=5&size=96x160&code=0")
    arguments = ["run", str(small_onnx), *addresses, "--select", str(folder), "--threads", "1", "--max-age-ms", "5000"]
    arguments += ["--keep-free", "0", "--seconds", str(PATIENCE_S)]

    def end_the_run() -> None:
        """SIGTERM as soon as every camera has given a pair."""
        end_s = time.monotonic() + PATIENCE_S / 2
        while len({path.name[:7] for path in folder.glob("images/*.jpg")}) < CAMERAS and time.monotonic() < end_s:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    watching = threading.Thread(target=end_the_run)
    watching.start()
    assert main(arguments) == 0
    watching.join()
    return folder


def test_unsure_pictures_are_kept_with_the_labels_that_the_network_gave(selected: Path, small_onnx: Path) -> None:
    lines = [json.loads(line) for line in (selected / "selected.jsonl").read_text().splitlines()]
    assert {line["camera"] for line in lines} == {f"camera{place}" for place in range(CAMERAS)}
    assert all(line["low_confidence"] >= DOUBTFUL_SHARE and line["labels"] == "predicted" for line in lines)
    dataset = open_dataset("auto", selected, "all")
    assert {path.stem for path in dataset.images} == {line["name"] for line in lines}
    assert len(dataset.classes.names) == 11 and dataset.classes.ignore_value == IGNORE
    low = {line["name"]: line["low_confidence"] for line in lines}
    with open_runner(small_onnx, threads=1) as runner:
        segmenter = CpuSegmenter(runner, with_confidence=True)
        for index, (image, labels) in enumerate(zip(dataset.images, dataset.labels, strict=True)):
            picture, read = dataset.read(index)
            np.testing.assert_array_equal(read, read_labels(labels))
            [again] = segmenter.segment([Frame(picture, "bgr", "again", 0, 0, 0)])
            assert (again.labels != read).mean() <= DECODED_SHARE
            assert again.confidence is not None
            share = (again.confidence < 255 * LOW_CONFIDENCE).mean()
            assert low[image.stem] == pytest.approx(share, abs=DECODED_SHARE)


def test_the_loader_draws_them_and_a_round_of_training_begins_with_them(selected: Path, tmp_path: Path) -> None:
    train = open_dataset("auto", selected, "train")
    assert len(train) >= CAMERAS - 1 and len(open_dataset("auto", selected, "val")) == 1
    spec, _ = random_model("mobilenet_v2", 16, (96, 128))
    pairs = TrainPairs(train, TrainTransform(spec, TrainConfig(crop=64)))
    [(pictures, labels, indices)] = drawn(train_loader(pairs, EpochBatches(len(train), len(train), 1, seed=1), 0))
    assert pictures.shape == (len(train), 3, 64, 64) and pictures.isfinite().all()
    assert sorted(indices.tolist()) == list(range(len(train)))
    known = {int(label) for index in range(len(train)) for label in np.unique(train.read(index)[1])}
    assert set(labels.unique().tolist()) <= known | {IGNORE} and (labels != IGNORE).any()
    output = tmp_path / "round"
    arguments = ["train", "--data", str(selected), "-o", str(output), "--weights", "none", "--output-stride", "32"]
    arguments += ["--bins", "1,2", "--size", "64x96", "--crop", "64", "--batch", "2", "--epochs", "1", "--workers", "0"]
    assert main(arguments) == 0 and (output / "best.pt").is_file()
