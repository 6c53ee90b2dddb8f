"""One optimiser step: several batches and processes, mixed precision, and losses normalised over all they hold."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pspnet.cpu_training import quick_depthwise
from pspnet.distributed import device, replicated, summed, world
from pspnet.errors import PspnetError
from pspnet.loader import Batch
from pspnet.losses import Criterion
from pspnet.recipe import TrainConfig
from pspnet.train_state import TrainState

Distiller = Callable[[Tensor, dict[str, Tensor], Tensor | None], Tensor]
"""Normalised pictures, outputs and features of the student -> a scalar that is added to the loss."""

SHOWN_FILES = 8


def autocast_dtype(amp: str, kind: str) -> torch.dtype | None:
    """The type of mixed precision on a kind of device ("cuda", "cpu"), None for float32 throughout."""
    if amp == "fp16" and kind != "cuda":
        raise PspnetError("--amp fp16 needs a GPU: use --amp bf16 or off")
    if amp == "auto":
        return torch.float16 if kind == "cuda" else None
    return {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[amp]


def freeze_batch_norm(model: nn.Module) -> None:
    """Batch norm keeps its running statistics, scale and shift from now on; train() has to be followed by this."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval().requires_grad_(False)


class TrainStep:
    """One optimiser step per call; the losses are means over the pixels of all batches and all processes."""

    def __init__(
        self, state: TrainState, criterion: Criterion, config: TrainConfig, files: Sequence[Path],
        distiller: Distiller | None,
    ) -> None:  # fmt: skip
        self.state, self.criterion, self.config, self.files, self.distiller = state, criterion, config, files, distiller
        self.device = device()
        self.dtype = autocast_dtype(config.amp, self.device.type)
        self.network: nn.Module = replicated(state.model)
        self._replica = self.network if isinstance(self.network, DistributedDataParallel) else None
        if config.compile:
            self.network = torch.compile(self.network)  # type: ignore[assignment]
        elif self.device.type == "cpu" and config.channels_last:
            quick_depthwise(state.model)

    def train_mode(self) -> None:
        """Dropout and aux heads on, and batch norm as the settings say."""
        self.network.train()
        if self.config.freeze_bn:
            freeze_batch_norm(self.state.model)

    def __call__(self, batches: Sequence[Batch], where: str) -> float:
        """Step on `batches`; returns the loss over all processes. PspnetError names `where` and files if it is NaN."""
        pictures = [self._on_device(images, labels) for images, labels, _ in batches]
        counts = [self.criterion.count(labels) for _, labels in pictures]
        known = [count for count in counts if count is not None]
        count = summed(torch.stack(known).sum()) if len(known) == len(counts) else None
        self.state.optimizer.zero_grad(set_to_none=True)
        losses = []
        for number, (images, labels) in enumerate(pictures, 1):
            with self._own_gradients(number < len(pictures)):
                loss = self._loss(images, labels, count, len(pictures))
                self.state.scaler.scale(loss * world()).backward()  # averaged over processes afterwards
            losses.append(loss.detach())
        own = torch.stack(losses)
        value = float(summed(own.sum()))
        if not math.isfinite(value):
            raise PspnetError(f"the loss is {value} at {where}: lower --lr, or look at {self._suspects(own, batches)}")
        self._update()
        return value

    def _on_device(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        order = torch.channels_last if self.config.channels_last else torch.contiguous_format
        return (
            images.to(self.device, memory_format=order, non_blocking=True),
            labels.to(self.device, non_blocking=True),
        )

    def _own_gradients(self, yes: bool) -> AbstractContextManager[None]:
        return self._replica.no_sync() if yes and self._replica is not None else contextlib.nullcontext()

    def _loss(self, images: Tensor, labels: Tensor, count: Tensor | None, parts: int) -> Tensor:
        """This process's part of the loss: the parts of all batches and processes add up to the whole."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            outputs = self.network(images)
        heads = self.criterion(outputs, labels)
        if count is not None:
            counts = [count] * len(heads)
        else:  # known only after the forward pass: each batch is normalised by itself
            counts = [c * parts for c in summed(torch.stack([c for _, c in heads.values()]))]
        loss = torch.zeros((), device=self.device)
        for (key, (total, _)), items in zip(heads.items(), counts, strict=True):
            loss = loss + self.criterion.weight_of(key) * total / torch.where(items > 0, items, 1)
        if self.distiller is not None:
            loss = loss + self.distiller(images, outputs, None) / (parts * world())
        return loss

    def _update(self) -> None:
        state = self.state
        if self.config.clip:
            state.scaler.unscale_(state.optimizer)
            nn.utils.clip_grad_norm_(state.model.parameters(), self.config.clip)
        before = state.scaler.get_scale()
        state.scaler.step(state.optimizer)
        state.scaler.update()
        if state.scaler.get_scale() < before:  # gradients overflowed: the step was left out
            return
        state.schedule.step()
        if state.ema is not None:
            state.ema.update_parameters(state.model)

    def _suspects(self, losses: Tensor, batches: Sequence[Batch]) -> str:
        bad = [indices for loss, (_, _, indices) in zip(losses, batches, strict=True) if not loss.isfinite()]
        names = [self.files[index].name for index in torch.cat(bad).tolist()] if bad else []
        more = f" and {len(names) - SHOWN_FILES} more" if len(names) > SHOWN_FILES else ""
        return ", ".join(names[:SHOWN_FILES]) + more if names else "the files that another process names"
