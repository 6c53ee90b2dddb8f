"""Training end to end on a few real pictures: scores, resuming, beginning from other classes, and what is refused."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from torch import nn

from pspnet import distributed
from pspnet.checkpoint import load_model, read_checkpoint
from pspnet.cli import main
from pspnet.dataset import Dataset, open_dataset
from pspnet.errors import PspnetError
from pspnet.initialise import model_from_checkpoint
from pspnet.recipe import TrainConfig
from pspnet.spec import ModelSpec
from pspnet.train import epoch_batches, train
from pspnet.train_step import TrainStep
from tests.training_runs import CONFIG, fresh, no_validation

pytestmark = pytest.mark.usefixtures("one_thread")


def test_two_epochs_from_the_command_line(
    camvid_tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    arguments = ["train", "--data", str(camvid_tiny), "-o", str(output), "--weights", "none", "--output-stride", "32"]
    arguments += ["--bins", "1,2", "--size", "64x96", "--crop", "64", "--batch", "4", "--epochs", "2", "--workers", "0"]
    assert main([*arguments, "--json", str(tmp_path / "r.json")]) == 0
    names = ["best.pt", "curves.png", "last.pt", "metrics.csv", "tensorboard"]
    assert sorted(p.name for p in output.iterdir()) == names
    rows = list(csv.DictReader((output / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert list(rows[0]) == ["epoch", "loss", "lr", "miou", "pixel_accuracy", "seconds", "step_ms", "data_ms"]
    rates = [float(row["lr"]) for row in rows]
    assert rates == pytest.approx([0.01, 0.01 * 0.5**0.9])  # poly: half of the steps are done after epoch 1
    best = max(float(row["miou"]) for row in rows)
    assert json.loads((tmp_path / "r.json").read_text())["best_val_miou"] == pytest.approx(best)
    spec, _ = load_model(output / "best.pt")
    assert spec.metrics["val"]["miou"] == pytest.approx(best) and spec.recipe["crop"] == 64
    assert cv2.imread(str(output / "curves.png")) is not None
    printed = capsys.readouterr().out
    for fact in (
        "8 images of camvid11 train",
        "mobilenet_v2 at output stride 32 for 64x96 pictures (stretch)",
        "2 epochs of 2 steps",
        "float32",
        "epochs 50 → 2",
        "waiting for pictures",
    ):
        assert fact in printed, fact  # fmt: skip

    (output / "best.pt").unlink()
    assert main([*arguments, "--resume"]) == 0
    assert f"best validation mIoU {best:.2f}: its weights are gone" in capsys.readouterr().out

    before = (output / "last.pt").read_bytes()
    assert main(arguments) == 2  # the folder holds a run
    assert "--resume" in capsys.readouterr().err
    assert main([*arguments, "--resume", "--lr", "0.02"]) == 2
    assert "lr 0.01 → 0.02" in capsys.readouterr().err
    assert (output / "last.pt").read_bytes() == before


def test_an_interrupted_validation_leaves_the_epoch_and_no_temporary_file(dataset: Dataset, tmp_path: Path) -> None:
    def interrupted(model: nn.Module, spec: ModelSpec) -> dict[str, Any]:
        raise KeyboardInterrupt

    spec, model = fresh(dataset)
    with pytest.raises(KeyboardInterrupt):
        train(model, spec, dataset, CONFIG, tmp_path / "run", interrupted, resume=False)
    assert [path.name for path in tmp_path.rglob("*.pt")] == ["last.pt"]


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
    with pytest.raises(PspnetError, match=r"the loss is nan at epoch 1/2, step 1: .* look at \w+\.jpg, \w+\.jpg, "):
        train(model, spec, dataset, CONFIG, tmp_path / "run", no_validation, resume=False)
    assert not list(tmp_path.rglob("*.pt"))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--batch", "1"], "--batch 2, or --freeze-bn"),
        (["--batch", "4", "--accumulate", "3"], "a batch of 4 x 3 accumulated: lower --accumulate to 2 or less"),
        (["--batch", "9", "--accumulate", "2"], "leave out --accumulate and lower --batch to 8 or less"),
        (["--amp", "fp16"], "needs a GPU"),
        (["--recipe", "best"], "paper, fast, laptop"),
        (["--warmup", "9"], "lower --warmup"),
        (["--batch", "9"], "8 images, fewer than a batch of 9: lower --batch to 8 or less"),
        (["--crop", "16"], "crop is 16: it must be 32 to 8192"),
        (["--resume"], "nothing to resume"),
        (["--class-weights", "some"], "none, enet, median"),
        (["--aux-weights", "1,x"], "--aux-weights 0.4"),
        (["--bins", "1,2,9"], "largest bin, 9"),
        (["--bins", "a"], "1,2,3,6"),
        (["--init", "nowhere.pt"], "cannot read checkpoint nowhere.pt"),
        (["--init", "LABELS"], ".png is not a whole checkpoint (it is no file of PyTorch)"),
        (["--init", "TINY", "--bins", "1,2", "--stem", "deep"], "leave out --bins, --stem"),
        (["--init", "TINY", "--backbone", "resnet18"], "leave out --backbone"),
        (["--init", "TINY", "--dilation", "contract"], "leave out --dilation"),
        (["--init", "TINY", "--branch-channels", "8"], "leave out --branch-channels"),
        (["--init", "TINY", "--head-channels", "8"], "leave out --head-channels"),
        (["--init", "TINY", "--aux-stages", "none"], "leave out --aux-stages"),
        (["--init", "TINY", "--align-corners"], "leave out --align-corners"),
        (["--init", "TINY", "--output-stride", "7"], "output stride is 7"),
    ],
)
def test_wrong_settings_are_refused(
    camvid_tiny: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: list[str],
    message: str,
) -> None:  # fmt: skip
    names = {"TINY": tiny_checkpoint, "LABELS": next((camvid_tiny / "train" / "labels").iterdir())}
    extra = [str(names.get(word, word)) for word in extra]
    start = [] if "--init" in extra else ["--weights", "none", "--output-stride", "32", "--bins", "1,2"]
    size = ["--size", "64x96", "--crop", "64", "--workers", "0", "--epochs", "1"]
    assert main(["train", "--data", str(camvid_tiny), "-o", str(tmp_path / "run"), *start, *size, *extra]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("pspnet: ") and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_run_needs_a_folder(camvid_tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").write_text("mine")
    assert main(["train", "--data", str(camvid_tiny), "-o", str(tmp_path / "run"), "--weights", "none"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"pspnet: {tmp_path / 'run'} is a file") and error.count("\n") == 1
    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.parametrize(("images", "batch", "accumulate", "world", "advice"), [
    (7, 2, 3, 2, "lower --accumulate to 1 or less"), (7, 4, 1, 2, "lower --batch to 3 or less"),
    (7, 4, 2, 2, "leave out --accumulate and lower --batch to 3 or less"),
    (7, 2, 1, 4, "a step needs 2 images per process: start fewer"),
    (1, 2, 1, 1, "a step needs 2 images per process: add some"),
])  # fmt: skip
def test_what_makes_a_step_fit(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, images: int, batch: int, accumulate: int, world: int, advice: str
) -> None:
    monkeypatch.setattr(distributed, "world", lambda: world)
    few = dataclasses.replace(dataset, images=dataset.images[:images])
    with pytest.raises(PspnetError, match=f"has {images} images?, fewer than .*: {advice}$"):
        epoch_batches(few, TrainConfig(batch=batch, accumulate=accumulate))


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


def test_the_best_weights_are_kept_and_patience_ends_the_run(
    dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = iter([3.0, 7.0, 5.0, 7.0, 99.0])

    def validate(model: nn.Module, spec: ModelSpec) -> dict[str, Any]:
        return {"miou": next(scores), "pixel_accuracy": 1.0}

    spec, model = fresh(dataset)
    config = dataclasses.replace(CONFIG, epochs=9, patience=2)
    result = train(model, spec, dataset, config, tmp_path, validate, resume=False)
    assert (result["best_val_miou"], result["epochs"]) == (7.0, 4)
    best, last = (read_checkpoint(tmp_path / name) for name in ("best.pt", "last.pt"))
    assert best[1]["epoch"] == 2 and best[0].metrics["val"]["miou"] == 7.0
    assert not torch.equal(best[1]["model"]["head.classifier.weight"], last[1]["model"]["head.classifier.weight"])
    assert result["checkpoint"] == str(tmp_path / "best.pt")
    assert "no better mIoU for 2 epochs" in capsys.readouterr().out


def test_averaged_weights_are_scored_and_both_are_kept(dataset: Dataset, tmp_path: Path) -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def validate(model: nn.Module, spec: ModelSpec) -> dict[str, Any]:
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"miou": float(len(seen)), "pixel_accuracy": 1.0}

    spec, model = fresh(dataset)
    train(model, spec, dataset, dataclasses.replace(CONFIG, ema=0.9), tmp_path, validate, resume=False)
    best, last = (read_checkpoint(tmp_path / name)[1] for name in ("best.pt", "last.pt"))
    for name, value in seen[-1].items():
        assert torch.equal(best["model"][name], value) and torch.equal(last["model"][name], value)
    weight = "head.classifier.weight"
    assert torch.equal(last["trained"][weight], model.state_dict()[weight].contiguous())
    assert not torch.equal(last["trained"][weight], last["model"][weight])
    load_model(tmp_path / "last.pt")


def test_frozen_batch_norm_trains_on_single_pictures(dataset: Dataset, tmp_path: Path) -> None:
    spec, model = fresh(dataset)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = dataclasses.replace(CONFIG, epochs=1, batch=1, freeze_bn=True)
    train(model, spec, dataset, config, tmp_path, no_validation, resume=False)
    norms = {name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) == (name.rpartition(".")[0] in norms), name


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_out_of_memory_says_what_to_try(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def exhausted(self: TrainStep, batches: Any, where: str) -> float:
        raise error

    monkeypatch.setattr(TrainStep, "__call__", exhausted)
    spec, model = fresh(dataset)
    with pytest.raises(PspnetError, match=r"batch 4 and crop 64: try --batch 2 --accumulate 2, or .* --crop 48"):
        train(model, spec, dataset, CONFIG, tmp_path / "run", no_validation, resume=False)


def test_deterministic_mode_ends_with_the_run(dataset: Dataset, tmp_path: Path) -> None:
    def validate(model: nn.Module, spec: ModelSpec) -> dict[str, Any]:
        assert torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.benchmark
        return no_validation(model, spec)

    spec, model = fresh(dataset)
    config = dataclasses.replace(CONFIG, epochs=1, deterministic=True)
    train(model, spec, dataset, config, tmp_path, validate, resume=False)
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_distiller_adds_its_loss(dataset: Dataset, tmp_path: Path) -> None:
    weights = []
    for factor in (0.0, 1.0):
        spec, model = fresh(dataset)

        def distiller(images: torch.Tensor, outputs: dict[str, torch.Tensor], _: Any, factor: float = factor) -> Any:
            assert images.shape == (4, 3, 64, 64) and set(outputs) == {"out", "aux3"}
            return factor * outputs["out"].square().mean()

        config = dataclasses.replace(CONFIG, epochs=1)
        train(model, spec, dataset, config, tmp_path / str(factor), no_validation, resume=False, distiller=distiller)
        weights.append(model.state_dict()["head.classifier.weight"])
    assert weights[1].abs().mean() < weights[0].abs().mean()  # the added loss pulls the logits to 0
