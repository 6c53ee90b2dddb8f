"""Training: SGD with a poly schedule per iteration and ten times the learning rate for the head (hszhao/semseg)."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from pspnet.checkpoint import read_checkpoint, replace_spec, save_checkpoint
from pspnet.dataset import Dataset
from pspnet.errors import PspnetError
from pspnet.files import atomic_path
from pspnet.loader import TrainPairs, default_workers, drawn, train_loader
from pspnet.losses import enet_class_weights, segmentation_loss
from pspnet.model import PSPNet
from pspnet.recipe import TrainConfig
from pspnet.spec import ModelSpec
from pspnet.transforms import TrainTransform

Validate = Callable[[nn.Module, ModelSpec], dict[str, Any]]
"""Model in eval mode and its spec -> scores with "miou" and "pixel_accuracy" in percent."""


def train(
    model: PSPNet,
    spec: ModelSpec,
    dataset: Dataset,
    config: TrainConfig,
    output: Path,
    validate: Validate,
    resume: bool,
) -> dict[str, Any]:
    """Train and write best.pt (highest validation mIoU), last.pt (for --resume), metrics.csv and curves.png.

    Every epoch is seeded by its number, so a run resumed after an epoch repeats what an uninterrupted one does.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device).to(memory_format=torch.channels_last)
    transform = TrainTransform(
        spec, (config.crop, config.crop), (config.smallest_scale, config.largest_scale), config.photometric
    )
    pairs = TrainPairs(dataset, transform)
    workers = default_workers() if config.workers < 0 else config.workers
    batches, sampler = train_loader(pairs, config.batch, workers, config.seed)
    optimizer, schedule = _optimizer(model, config, len(batches) * config.epochs)
    weights = enet_class_weights(dataset).to(device) if config.class_weights == "enet" else None
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")
    state = {"optimizer": optimizer, "schedule": schedule, "scaler": scaler}
    history = _resume(output / "last.pt", model, state, spec, config) if resume else []
    best = max((row["miou"] for row in history), default=-1.0)
    for epoch in range(len(history), config.epochs):
        sampler.epoch = epoch
        torch.manual_seed(config.seed * 100_003 + epoch)  # of dropout
        start = time.perf_counter()
        rate = optimizer.param_groups[0]["lr"]
        loss = _train_epoch(model, spec, batches, state, config, weights, f"epoch {epoch + 1}/{config.epochs}")
        with _eval_mode(model):
            scores = validate(model, spec)
        history.append({
            "epoch": epoch + 1, "loss": loss, "lr": rate, "miou": scores["miou"],
            "pixel_accuracy": scores["pixel_accuracy"], "seconds": time.perf_counter() - start,
        })  # fmt: skip
        line = f"epoch {epoch + 1}: loss {loss:.3f}, val mIoU {scores['miou']:.2f}, {history[-1]['seconds']:.0f} s"
        print(line, flush=True)
        trained = replace_spec(spec, recipe={**spec.recipe, **dataclasses.asdict(config)}, metrics={"val": scores})
        if scores["miou"] > best:
            best = scores["miou"]
            save_checkpoint(output / "best.pt", trained, _weights(model), epoch=epoch + 1)
        resumable = {name: part.state_dict() for name, part in state.items()}
        save_checkpoint(output / "last.pt", trained, _weights(model), history=history, **resumable)
        _write_history(output, history)
    return {"best_val_miou": best, "epochs": len(history), "checkpoint": str(output / "best.pt")}


def _train_epoch(
    model: PSPNet, spec: ModelSpec, batches: Any, state: dict[str, Any], config: TrainConfig,
    weights: Tensor | None, title: str,
) -> float:  # fmt: skip
    model.train()
    device = next(model.parameters()).device
    total, optimizer, scaler = 0.0, state["optimizer"], state["scaler"]
    bar = tqdm(drawn(batches), total=len(batches), desc=title, unit="batch", leave=False)
    for step, (images, labels) in enumerate(bar):
        images = images.to(device, memory_format=torch.channels_last, non_blocking=True)
        labels = labels.to(device, non_blocking=True)
        with torch.autocast(device.type, torch.float16, enabled=scaler.is_enabled()):
            outputs = model(images)
        loss = segmentation_loss(outputs, labels, config.aux_weight, spec.align_corners, weights)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise PspnetError(f"the loss is {value} at {title}, step {step + 1}: lower --lr, or look at the labels")
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        state["schedule"].step()
        total += value
        bar.set_postfix(loss=f"{total / (step + 1):.3f}")
    return total / len(batches)


def _optimizer(model: PSPNet, config: TrainConfig, steps: int) -> tuple[Any, Any]:
    groups = [
        {"params": model.backbone.parameters(), "lr": config.lr},
        {"params": [*model.head.parameters(), *model.aux_head.parameters()], "lr": config.lr * config.head_lr},
    ]
    optimizer = torch.optim.SGD(groups, momentum=config.momentum, weight_decay=config.weight_decay)
    poly = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(1 - step / steps, 0.0) ** config.power)
    return optimizer, poly


def _resume(
    path: Path, model: PSPNet, state: dict[str, Any], spec: ModelSpec, config: TrainConfig
) -> list[dict[str, Any]]:
    if not path.exists():
        raise PspnetError(
            f"nothing to resume: {path} does not exist. Leave out --resume, or give the run's folder with -o"
        )
    stored, raw = read_checkpoint(path)
    wanted = {**dataclasses.asdict(config), "workers": None}
    before = {**{k: stored.recipe.get(k) for k in wanted}, "workers": None}
    changed = [f"{k} {before[k]} → {wanted[k]}" for k in wanted if before[k] != wanted[k]]
    now, then = (dataclasses.asdict(replace_spec(s, recipe={}, metrics={})) for s in (spec, stored))
    changed += [f"{name} {then[name]} → {now[name]}" for name in now if now[name] != then[name]]
    if changed or "history" not in raw:
        raise PspnetError(f"{path} was made with other settings ({'; '.join(changed)}): repeat them, or begin a new -o")
    model.load_state_dict(raw["model"])
    for name, part in state.items():
        part.load_state_dict(raw[name])
    print(f"resumed {path} after epoch {len(raw['history'])}")
    return list(raw["history"])


@contextlib.contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    model.eval()
    with torch.inference_mode():
        yield
    model.train()


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}


def _write_history(output: Path, history: list[dict[str, Any]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    with atomic_path(output / "metrics.csv") as path, open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(history[0]))
        writer.writeheader()
        writer.writerows(history)
    epochs = [row["epoch"] for row in history]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    left.plot(epochs, [row["loss"] for row in history])
    left.set(xlabel="epoch", ylabel="training loss")
    right.plot(epochs, [row["miou"] for row in history])
    right.set(xlabel="epoch", ylabel="validation mIoU [%]")
    with atomic_path(output / "curves.png") as path:
        figure.savefig(path, dpi=110)
    plt.close(figure)
