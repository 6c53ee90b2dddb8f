"""Training: from a model, a data set and settings to a run that can be resumed at any step."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pspnet import distributed
from pspnet.checkpoint import replace_spec
from pspnet.cpu_training import freed_memory_kept
from pspnet.dataset import Dataset
from pspnet.ema import averaged_model
from pspnet.errors import PspnetError, is_out_of_memory
from pspnet.loader import EpochBatches, TrainPairs, default_workers, train_loader
from pspnet.losses import criterion_from_config
from pspnet.model import PSPNet
from pspnet.recipe import TrainConfig
from pspnet.run_log import RunLog
from pspnet.schedule import optimizer_from_config, schedule_from_config
from pspnet.spec import ModelSpec
from pspnet.train_run import Draw, TrainRun, Validate
from pspnet.train_state import TrainState, load_state
from pspnet.train_step import Distiller, TrainStep, autocast_dtype, freeze_batch_norm
from pspnet.training_data import check_labelled, facts_of
from pspnet.transforms import TrainTransform
from pspnet.wording import counted


def train(
    model: PSPNet, spec: ModelSpec, dataset: Dataset, config: TrainConfig, output: Path, validate: Validate,
    resume: bool, distiller: Distiller | None = None, draw: Draw | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train and write best.pt (highest validation mIoU), last.pt (for resume), metrics.csv, curves.png and events.

    Order, augmentation and dropout of a step follow from the seed and the step's number, so a run resumed after any
    step does what an uninterrupted one does. distiller: adds its loss. draw: pictures for TensorBoard.
    """
    batches = epoch_batches(dataset, config)
    if distiller is None:
        check_labelled(dataset)
    record = {**dataclasses.asdict(config), "processes": distributed.world()}
    spec = replace_spec(spec, recipe={**spec.recipe, **record})
    workers = default_workers(distributed.local_world()) if config.workers < 0 else config.workers
    with _algorithms(config.deterministic), _failures_explained(config), _memory():
        state = new_state(model, config, batches.steps, distiller)
        state.pictures = facts_of(dataset)
        if resume:
            load_state(output / "last.pt", spec, state)
            done = state.progress
            steps = counted(done.step, "step")
            print(f"resumed {output / 'last.pt'} after epoch {len(done.history)} and {steps} of the next")
            _remove_leftovers(output)
        criterion = criterion_from_config(config, spec, dataset).to(distributed.device())
        step = TrainStep(state, criterion, config, dataset.images, distiller)
        loader = train_loader(TrainPairs(dataset, TrainTransform(spec, config)), batches, workers)
        run = TrainRun(state, step, spec, config, batches, loader, output)
        print(_header(run, dataset, workers), flush=True)
        if distributed.rank() > 0:
            return run.finish(validate, draw)
        with RunLog(output, run.steps_done) as run.log:
            return run.finish(validate, draw)


def epoch_batches(dataset: Dataset, config: TrainConfig) -> EpochBatches:
    """The order of the training pictures for this process; PspnetError where a step cannot be filled."""
    world = distributed.world()
    alone = world == 1 or distributed.device().type == "cpu"  # SyncBN sees the pictures of all processes
    if config.batch == 1 and alone and not config.freeze_bn:
        raise PspnetError("batch is 1: batch norm in the 1x1 bin needs 2 or more. Use --batch 2, or --freeze-bn")
    batches = EpochBatches(len(dataset), config.batch, config.accumulate, config.seed, distributed.rank(), world)
    if not batches.steps:
        factors = f" x {config.accumulate} accumulated" if config.accumulate > 1 else ""
        factors += f" x {world} processes" if world > 1 else ""
        raise PspnetError(
            f"the training split has {counted(len(dataset), 'image')}, fewer than a batch of {config.batch}{factors}: "
            f"{_smaller_step(len(dataset), config, world)}"
        )
    return batches


def _smaller_step(images: int, config: TrainConfig, world: int) -> str:
    """The flag that makes a step fit into the split."""
    if config.batch * world <= images:
        return f"lower --accumulate to {images // (config.batch * world)} or less"
    if images < 2 * world:
        return "a step needs 2 images per process" + (": start fewer" if images > 1 and world > 1 else ": add some")
    without = "leave out --accumulate and " if config.accumulate > 1 else ""
    return f"{without}lower --batch to {images // world} or less"


def new_state(model: PSPNet, config: TrainConfig, steps: int, distiller: Distiller | None = None) -> TrainState:
    """The model on its device with a fresh optimiser and a schedule for config.epochs times `steps` optimiser steps.

    Where the distiller is a module with parameters of its own, they are trained along with the heads' rate.
    """
    device = distributed.device()
    half = autocast_dtype(config.amp, device.type) is torch.float16
    model = model.to(device)
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if config.freeze_bn:
        freeze_batch_norm(model)
    else:
        model = distributed.with_global_batch_norm(model)  # type: ignore[assignment]
    optimizer = optimizer_from_config(model, config)
    learning = distiller.to(device) if isinstance(distiller, nn.Module) else None
    if learning and (parameters := list(learning.parameters())):
        group = {"lr": config.lr * config.head_lr, "weight_decay": config.weight_decay}
        optimizer.add_param_group({"name": "distiller", "params": parameters, **group})
    schedule = schedule_from_config(optimizer, config, steps * config.epochs)
    scaler = torch.amp.GradScaler(device.type, enabled=half)
    average = averaged_model(model, config.ema) if config.ema else None
    return TrainState(model, optimizer, schedule, scaler, average, learning)


def _header(run: TrainRun, dataset: Dataset, workers: int) -> str:
    spec, config, device, world = run.spec, run.config, distributed.device(), distributed.world()
    cpu = f"CPU, {counted(torch.get_num_threads(), 'thread')}"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu
    height, width = spec.input_size
    parameters = sum(p.numel() for p in run.state.model.parameters()) / 1e6
    precision = str(run.step.dtype or torch.float32).removeprefix("torch.")
    pictures = config.batch * config.accumulate * world
    return (
        f"data: {counted(len(dataset), 'image')} of {dataset.name} {dataset.split}, {counted(spec.classes, 'class')}\n"
        f"model: {spec.backbone} at output stride {spec.output_stride} for {height}x{width} pictures ({spec.fit}), "
        f"{parameters:.1f} million parameters\n"
        f"run: {counted(config.epochs, 'epoch')} of {counted(run.batches.steps, 'step')}, "
        f"{counted(pictures, 'picture')} of {config.crop}x{config.crop} per step, "
        f"{counted(workers, 'loader process')}\n"
        f"device: {name}{f', {world} processes' if world > 1 else ''}, {precision}"
    )


def _remove_leftovers(output: Path) -> None:
    """Delete the unfinished files of a run that was killed while it wrote."""
    if distributed.rank() == 0:
        for path in output.glob(".*.tmp.*"):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _algorithms(deterministic: bool) -> Iterator[None]:
    """Algorithms that repeat bit for bit, or the fastest. Where CUDA has none that repeats, torch says so."""
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


def _memory() -> AbstractContextManager[None]:
    return freed_memory_kept() if distributed.device().type == "cpu" else contextlib.nullcontext()


@contextlib.contextmanager
def _failures_explained(config: TrainConfig) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if config.compile and isinstance(error, torch._dynamo.exc.TorchDynamoException):
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise PspnetError(f"torch.compile failed ({reason}): leave out --compile") from error
        if not is_out_of_memory(error):
            raise
        smaller = f"--batch {config.batch // 2} --accumulate {config.accumulate * 2}, or " if config.batch > 3 else ""
        raise PspnetError(
            f"out of memory at batch {config.batch} and crop {config.crop}: try {smaller}a smaller crop, "
            f"--crop {max(config.crop * 3 // 4, 32)}"
        ) from None
