"""Training with a teacher: on pictures without labels, resumed, and what the command line refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pspnet.checkpoint import read_checkpoint, save_checkpoint
from pspnet.cli import main
from pspnet.dataset import Dataset
from pspnet.distill import CheckpointTeacher, Distiller
from pspnet.errors import PspnetError
from pspnet.image import read_image
from pspnet.model import PSPNet
from pspnet.recipe import TrainConfig
from pspnet.spec import IGNORE, ModelSpec
from pspnet.train import train
from pspnet.unlabelled import pictures_of_folder, with_unlabelled, write_frames
from tests.nets import CLIP, random_model

pytestmark = pytest.mark.usefixtures("one_thread", "no_curves")

CONFIG = TrainConfig(epochs=2, batch=4, crop=64, workers=0, seed=3, channels_last=False, photometric=0.0)
SMALL = ["--backbone", "mobilenet_v2", "--output-stride", "32", "--bins", "1,2", "--size", "64x96", "--weights", "none"]
SHORT = ["--epochs", "1", "--batch", "4", "--crop", "64", "--workers", "0"]


def run(output: Path, dataset: Dataset, stop_after: int = 99, resume: bool = False) -> dict[str, torch.Tensor]:
    """Train a student with features that need an adapter; the adapter's and the student's last weights."""
    spec, model = random_model("mobilenet_v2", 16, (96, 128))
    teacher = CheckpointTeacher(*random_model("resnet18", 16, (96, 128)), spec)
    torch.manual_seed(5)
    distiller = Distiller(teacher, model, spec, 3.0, 4.0, 1.0)
    validations = []

    def validate(model: nn.Module, spec: ModelSpec) -> dict[str, Any]:
        validations.append(1)
        if len(validations) > stop_after:
            raise KeyboardInterrupt
        return {"miou": 1.0, "pixel_accuracy": 1.0}

    train(model, spec, dataset, CONFIG, output, validate, resume, distiller)
    assert not any("distiller" in name or "teacher" in name for name in model.state_dict())
    return {**model.state_dict(), **distiller.state_dict()}


def test_a_resumed_run_ends_as_an_unbroken_one(tmp_path: Path, dataset: Dataset) -> None:
    whole = run(tmp_path / "whole", dataset)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", dataset, stop_after=0)
    resumed = run(tmp_path / "broken", dataset, resume=True)
    assert set(whole) == set(resumed) and "adapter.weight" in whole
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    torch.manual_seed(5)
    fresh = nn.Conv2d(320, 512, 1, bias=False).weight
    assert not torch.equal(whole["adapter.weight"], fresh)  # it has learned


def test_pictures_without_labels_teach(tmp_path: Path, dataset: Dataset) -> None:
    spec, model = random_model("mobilenet_v2", 16, (96, 128))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    nothing_labelled = with_unlabelled(
        Dataset(dataset.name, dataset.root, "train", dataset.classes, (), (), dataset.reader), dataset.images
    )
    config = TrainConfig(epochs=1, batch=8, crop=96, workers=0, weight_decay=0.0, aux_weights="0.4")
    scores = {"miou": 1.0, "pixel_accuracy": 1.0}

    def moved(output: Path, distiller: Distiller | None) -> list[str]:
        train(model, spec, nothing_labelled, config, output, lambda *_: scores, False, distiller)
        return [name for name, p in model.named_parameters() if not torch.equal(p.cpu(), before[name])]

    with pytest.raises(PspnetError, match=r"no pixel of .*_tiny \(train\) has a class: training needs labelled"):
        moved(tmp_path / "alone", None)
    teacher = CheckpointTeacher(*random_model("resnet18", 16, (96, 128)), spec)
    learned = moved(tmp_path / "taught", Distiller(teacher, model, spec, 3.0, 4.0, 0.0))
    assert "head.classifier.weight" in learned and not any(name.startswith("aux_heads") for name in learned)


def test_a_partly_labelled_data_set(tmp_path: Path, dataset: Dataset) -> None:
    frames = [np.full((20, 30, 3), 40 * i, np.uint8) for i in range(5)]
    write_frames(iter(frames), tmp_path / "frames", every=2)
    pictures = pictures_of_folder(tmp_path / "frames")
    assert [path.name for path in pictures] == ["000000.jpg", "000002.jpg", "000004.jpg"]
    both = with_unlabelled(dataset, pictures)
    assert len(both) == len(dataset) + 3 and both.classes == dataset.classes and both.images[-1] == pictures[-1]
    for index in range(2):
        for ours, theirs in zip(both.read(index), dataset.read(index), strict=True):
            assert np.array_equal(ours, theirs)
    image, labels = both.read(len(dataset) + 1)
    assert np.array_equal(image, read_image(pictures[1])) and abs(int(image.mean()) - 80) <= 2  # JPEG of one colour
    assert labels.shape == (20, 30) and labels.dtype == np.uint8 and (labels == IGNORE).all()
    (tmp_path / "empty").mkdir()
    with pytest.raises(PspnetError, match=r"holds no picture.*--unlabelled"):
        pictures_of_folder(tmp_path / "empty")
    with pytest.raises(PspnetError, match=r"--unlabelled-every is 0"):
        write_frames(iter(frames), tmp_path / "none", every=0)


def test_a_teacher_and_a_clip_from_the_command_line(
    tmp_path: Path, camvid_tiny: Path, small_checkpoint: Path, small_onnx: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", str(camvid_tiny), *SMALL, *SHORT]
    taught = ["--teacher", str(small_checkpoint), "--distill-features", "2"]
    clip = ["--unlabelled", str(CLIP), "--unlabelled-every", "60"]
    assert main(["train", *data, *taught, *clip, "-o", str(tmp_path / "a")]) == 0
    assert "unlabelled: 4 pictures" in capsys.readouterr().out
    spec, raw = read_checkpoint(tmp_path / "a" / "last.pt")
    assert spec.recipe["teacher"] == "small.pt" and spec.recipe["distill_features"] == 2
    assert spec.recipe["unlabelled"] == CLIP.name and "adapter" not in " ".join(raw["model"])
    assert PSPNet(spec).load_state_dict(raw["model"])
    other = ["--teacher", str(small_checkpoint), "--distill-features", "3", *clip]
    assert main(["train", *data, *other, "-o", str(tmp_path / "a"), "--resume"]) == 2
    assert "distill_features 2" in capsys.readouterr().err
    assert main(["train", *data, "--teacher", str(small_onnx), "-o", str(tmp_path / "b")]) == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--distill-weight", "2"], "--distill-weight is for learning from a teacher: give --teacher best.pt"),
        (["--unlabelled", "x"], "--unlabelled is for learning from a teacher"),
        (["--teacher", "absent.pt"], "teacher absent.pt is no file"),
        (["--teacher", "TEACHER", "--distill-temperature", "0"], "--distill-temperature is 0: it must be 0.001 to"),
        (["--teacher", "TEACHER", "--distill-weight", "nan"], "--distill-weight is nan"),
        (["--teacher", "TEACHER", "--unlabelled", "absent.mp4"], "absent.mp4 does not exist: give a folder"),
        (["--teacher", "TEACHER", "--unlabelled-every", "3"], "give --unlabelled CLIP"),
        (["--teacher", "ONNX", "--distill-features", "1"], "--distill-features needs the teacher's checkpoint"),
        (["--teacher", "OTHER"], "class 10 is nothing and Bicyclist: both must agree"),
    ],
)
def test_flags_out_of_place_are_refused(
    tmp_path: Path, camvid_tiny: Path, small_checkpoint: Path, small_onnx: Path, flags: list[str], message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    spec, _ = random_model("resnet18", 16, (96, 128))
    names = {"TEACHER": small_checkpoint, "ONNX": small_onnx, "OTHER": tmp_path / "other.pt"}
    if "OTHER" in flags:
        fewer = ModelSpec(**{**vars(spec), "class_names": spec.class_names[:10], "palette": spec.palette[:10]})
        save_checkpoint(names["OTHER"], fewer, PSPNet(fewer).state_dict())
    given = [str(names.get(flag, flag)) for flag in flags]
    assert main(["train", "--data", str(camvid_tiny), *SMALL, *SHORT, *given, "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error and len([line for line in error.splitlines() if line.startswith("pspnet:")]) == 1
    assert not (tmp_path / "out" / "best.pt").exists()
