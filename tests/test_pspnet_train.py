"""Training end to end on a few real pictures: scores, resuming, beginning from other classes, and what is refused."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pspnet.checkpoint import load_model, read_checkpoint
from pspnet.cli import main
from pspnet.dataset import Dataset, open_dataset
from pspnet.errors import PspnetError
from pspnet.initialise import model_from_checkpoint, new_model
from pspnet.losses import enet_class_weights, segmentation_loss
from pspnet.model import PSPNet
from pspnet.recipe import TrainConfig
from pspnet.spec import ModelSpec
from pspnet.train import train

FLOAT32 = 1e-5  # relative: sums over a few thousand float32 values
CONFIG = TrainConfig(epochs=2, batch=4, crop=64, lr=0.01, workers=0, seed=3)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Nets this small gain nothing from threads, and threads that wait for each other are slow on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def fresh(dataset: Dataset) -> tuple[ModelSpec, PSPNet]:
    """A small new model with bins for a 64-pixel crop at output stride 32."""
    return new_model(dataset, "mobilenet_v2", 32, (1, 2), (64, 96), "stretch", False, "none", CONFIG.seed)


def no_validation(model: nn.Module, spec: ModelSpec) -> dict[str, Any]:
    """Scores that cost nothing."""
    assert not model.training
    return {"miou": 1.0, "pixel_accuracy": 1.0}


@pytest.fixture
def dataset(camvid_tiny: Path) -> Dataset:
    return open_dataset("camvid11", camvid_tiny, "train")


def test_two_epochs_from_the_command_line(
    camvid_tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    arguments = ["train", "--data", str(camvid_tiny), "-o", str(output), "--weights", "none", "--output-stride", "32"]
    arguments += ["--bins", "1,2", "--size", "64x96", "--crop", "64", "--batch", "4", "--epochs", "2", "--workers", "0"]
    assert main([*arguments, "--json", str(tmp_path / "r.json")]) == 0
    assert sorted(p.name for p in output.iterdir()) == ["best.pt", "curves.png", "last.pt", "metrics.csv"]
    rows = list(csv.DictReader((output / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    rates = [float(row["lr"]) for row in rows]
    assert rates == pytest.approx([0.01, 0.01 * 0.5**0.9])  # poly: half of the steps are done after epoch 1
    best = max(float(row["miou"]) for row in rows)
    assert json.loads((tmp_path / "r.json").read_text())["best_val_miou"] == pytest.approx(best)
    spec, _ = load_model(output / "best.pt")
    assert spec.metrics["val"]["miou"] == pytest.approx(best) and spec.recipe["crop"] == 64
    assert cv2.imread(str(output / "curves.png")) is not None
    capsys.readouterr()

    before = (output / "last.pt").read_bytes()
    assert main(arguments) == 2  # the folder holds a run
    assert "--resume" in capsys.readouterr().err
    assert main([*arguments, "--resume", "--lr", "0.02"]) == 2
    assert "lr 0.01 → 0.02" in capsys.readouterr().err
    assert (output / "last.pt").read_bytes() == before


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(dataset: Dataset, tmp_path: Path) -> None:
    spec, model = fresh(dataset)
    train(model, spec, dataset, CONFIG, tmp_path / "whole", no_validation, resume=False)

    def interrupted(model: nn.Module, spec: ModelSpec) -> dict[str, Any]:
        if (tmp_path / "cut" / "last.pt").exists():
            raise KeyboardInterrupt
        return no_validation(model, spec)

    spec, model = fresh(dataset)
    with pytest.raises(KeyboardInterrupt):
        train(model, spec, dataset, CONFIG, tmp_path / "cut", interrupted, resume=False)
    assert len(read_checkpoint(tmp_path / "cut" / "last.pt")[1]["history"]) == 1
    torch.manual_seed(99)  # the state of the generator must not matter
    spec, model = fresh(dataset)
    train(model, spec, dataset, CONFIG, tmp_path / "cut", no_validation, resume=True)

    whole, cut = (read_checkpoint(tmp_path / name / "last.pt")[1]["model"] for name in ("whole", "cut"))
    assert all(torch.equal(value, cut[name]) for name, value in whole.items())
    begun = fresh(dataset)[1].state_dict()
    changed = [n for n, v in begun.items() if v.is_floating_point() and not torch.equal(v, whole[n])]
    assert len(changed) > 0.9 * sum(v.is_floating_point() for v in begun.values())


def test_an_interrupted_run_leaves_no_temporary_file(dataset: Dataset, tmp_path: Path) -> None:
    def interrupted(model: nn.Module, spec: ModelSpec) -> dict[str, Any]:
        raise KeyboardInterrupt

    spec, model = fresh(dataset)
    with pytest.raises(KeyboardInterrupt):
        train(model, spec, dataset, CONFIG, tmp_path / "run", interrupted, resume=False)
    assert not list(tmp_path.rglob("*.pt"))


def test_init_with_other_classes_keeps_all_but_the_classifiers(
    tiny_checkpoint: Path, tmp_path: Path, camvid_tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(camvid_tiny / "train", tmp_path / "train")
    names = ["Road", "Boat", "Sky"]
    colours = {name: [i, i, i] for i, name in enumerate(names)}
    raw = {"classes": names, "ignore_index": 255, "colours_rgb": colours}
    (tmp_path / "classes.json").write_text(json.dumps(raw))
    dataset = open_dataset("folder", tmp_path, "train")
    spec, model = model_from_checkpoint(dataset, tiny_checkpoint, seed=0)
    old_spec, old = load_model(tiny_checkpoint)
    before, after = old.state_dict(), model.state_dict()
    assert spec.class_names == ("Road", "Boat", "Sky") and spec.drivable == (0,)
    assert (spec.input_size, spec.output_stride, spec.bins) == ((96, 96), 32, (1, 2, 3))
    assert capsys.readouterr().out.endswith("2 of 3 classes by name, new: Boat\n")
    for name, value in after.items():
        if ".classifier." not in name:
            assert torch.equal(value, before[name]), name
            continue
        for index, kept in ((0, "Road"), (2, "Sky")):
            assert torch.equal(value[index], before[name][old_spec.class_names.index(kept)])
        assert not any(torch.equal(value[1], row) for row in before[name])


def test_init_at_another_stride_keeps_every_weight(tiny_checkpoint: Path, dataset: Dataset) -> None:
    spec, model = model_from_checkpoint(dataset, tiny_checkpoint, seed=0, output_stride=8, input_size=(64, 64))
    assert (spec.output_stride, spec.input_size, spec.map_size) == (8, (64, 64), (8, 8))
    before = load_model(tiny_checkpoint)[1].state_dict()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.inference_mode():
        assert model.eval()(torch.zeros(1, 3, 64, 64))["out"].shape[2:] == (8, 8)


def test_a_loss_that_is_not_a_number_stops_the_run(dataset: Dataset, tmp_path: Path) -> None:
    spec, model = fresh(dataset)
    nn.init.constant_(model.head.classifier.bias, float("nan"))
    with pytest.raises(PspnetError, match="the loss is nan at epoch 1/2, step 1"):
        train(model, spec, dataset, CONFIG, tmp_path / "run", no_validation, resume=False)
    assert not list(tmp_path.rglob("*.pt"))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--batch", "1"], "--batch 2"),
        (["--batch", "9"], "8 images, fewer than a batch of 9"),
        (["--crop", "16"], "crop is 16: it must be 32 to 8192"),
        (["--resume"], "nothing to resume"),
        (["--class-weights", "median"], "none or enet"),
        (["--bins", "1,2,9"], "largest bin, 9"),
        (["--bins", "a"], "1,2,3,6"),
        (["--init", "nowhere.pt"], "cannot read checkpoint nowhere.pt"),
    ],
)
def test_wrong_settings_are_refused(
    camvid_tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: list[str], message: str
) -> None:
    start = [] if "--init" in extra else ["--weights", "none", "--output-stride", "32", "--bins", "1,2"]
    size = ["--size", "64x96", "--crop", "64", "--workers", "0", "--epochs", "1"]
    assert main(["train", "--data", str(camvid_tiny), "-o", str(tmp_path / "run"), *start, *size, *extra]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("pspnet: ") and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["weights", "text", "cut", "empty"])
def test_a_checkpoint_of_another_kind_is_refused(
    kind: str, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], camvid_tiny: Path
) -> None:
    path = tmp_path / "other.pt"
    if kind == "weights":
        torch.save({"conv1.weight": torch.zeros(1)}, path)
    elif kind == "text":
        path.write_text("no checkpoint")
    else:
        path.write_bytes(tiny_checkpoint.read_bytes()[: 5000 if kind == "cut" else 0])
    assert main(["evaluate", str(path), "--data", str(camvid_tiny)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"pspnet: {path} is ") and error.count("\n") == 1


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_loss_equals_its_definition(align_corners: bool, weighted: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = {name: torch.randn(2, 4, 5, 6, generator=generator) for name in ("out", "aux")}
    labels = torch.randint(0, 4, (2, 33, 47), generator=generator)
    labels[:, :7] = 255
    weights = torch.tensor([0.5, 1.0, 2.0, 7.0]) if weighted else None
    valid = labels != 255
    share = (weights if weighted else torch.ones(4))[labels[valid]].double()
    expected = 0.0
    for name, factor in (("out", 1.0), ("aux", 0.4)):
        full = F.interpolate(outputs[name].double(), (33, 47), mode="bilinear", align_corners=align_corners)
        scores = full.permute(0, 2, 3, 1)[valid]
        likelihood = scores.exp() / scores.exp().sum(1, keepdim=True)
        surprise = -likelihood.gather(1, labels[valid][:, None])[:, 0].log()
        expected += factor * float((share * surprise).sum() / share.sum())
    ours = segmentation_loss(outputs, labels, 0.4, align_corners, weights)
    assert float(ours) == pytest.approx(expected, rel=FLOAT32)
    only = segmentation_loss({"out": outputs["out"]}, labels, 0.4, align_corners, weights)
    assert float(only) == float(segmentation_loss(outputs, labels, 0.0, align_corners, weights)) < float(ours)


def test_a_batch_without_a_labelled_pixel_adds_nothing() -> None:
    logits = torch.randn(2, 4, 5, 6, requires_grad=True)
    loss = segmentation_loss({"out": logits, "aux": logits}, torch.full((2, 20, 24), 255), 0.4, False, None)
    loss.backward()
    assert float(loss.detach()) == 0 and logits.grad is not None and not logits.grad.any()


def test_enet_class_weights_against_numpy(dataset: Dataset) -> None:
    stored = np.concatenate([cv2.imread(str(path), cv2.IMREAD_UNCHANGED).ravel() for path in dataset.labels])
    share = np.array([(stored == c).sum() for c in range(11)]) / (stored != 11).sum()
    np.testing.assert_allclose(enet_class_weights(dataset).numpy(), 1 / np.log(1.02 + share), rtol=FLOAT32)
