"""Quantisation-aware fine-tuning: weights and ranges learn under the rounding that the INT8 file will do.

The Q/DQ graph itself is trained, as a PyTorch module, so rounding stands exactly where the file has it. Every weight,
bias and scale is learned, scales as learned step sizes (Esser et al., "Learned Step Size Quantization", ICLR 2020) from
the calibrated ones on. What comes out is a float graph and a table, like what calibration begins with.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor
from tqdm import tqdm

from calibration.quantize import LARGEST, quantized
from calibration.repair import Finetune
from calibration.table import CalibrationTable
from calibration.torch_graph import TorchGraph
from calibration.tuning_pictures import TuningPictures
from calibration.weights import ConvolutionWeights
from pspnet.errors import PspnetError
from pspnet.metadata import spec_from_model
from pspnet.spec import IGNORE
from pspnet.transforms import PhotometricDistort

WARMUP = 0.05  # of all steps: Adam's first ones are as long as any, and rest on a gradient or two
SMALLEST_SCALE = 0.01  # of the calibrated one: a scale that went to 0 or below would be none


def finetuned(
    model: onnx.ModelProto, table: CalibrationTable, pictures: TuningPictures, config: Finetune,
    quiet: bool = False,
) -> tuple[onnx.ModelProto, CalibrationTable]:  # fmt: skip
    """The float graph with learned weights and biases, and the table with learned ranges.

    The loss of a picture is the Kullback-Leibler divergence of the float network's classes from its own, mean over the
    cells of the logits, plus, where there are labels, the cross-entropy, mean over the pixels that have one. On a GPU
    where there is one. PspnetError where the loss is no longer a number.
    """
    spec = spec_from_model(model)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    student, teacher = student_of(model, table).to(device), TorchGraph(model).to(device).requires_grad_(False)
    optimizer = torch.optim.Adam(student.parameters(), config.lr, eps=1e-12)  # gradients of scales are small
    steps = config.epochs * math.ceil(len(pictures) / config.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, steps))
    bar = tqdm(total=steps, desc="fine-tune", unit="step", leave=False, disable=quiet)
    with bar, torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        for _ in range(config.epochs):
            for batch in torch.randperm(len(pictures)).split(config.batch):
                images, labels = drawn(pictures, batch.tolist())
                images, labels = images.to(device), None if labels is None else labels.to(device)
                optimizer.zero_grad(set_to_none=True)
                with torch.no_grad():
                    taught = teacher(images)
                loss = loss_of(student(images), taught, labels, spec.align_corners)
                if not torch.isfinite(loss):
                    raise PspnetError(
                        f"the loss of fine-tuning is {loss.item()} at step {bar.n + 1} of {steps}: lower --finetune-lr "
                        f"from {config.lr:g}"
                    )
                loss.backward()
                optimizer.step()
                schedule.step()
                student.keep_scales_above(SMALLEST_SCALE)
                bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)
                bar.update()
    return learned(student.cpu(), model, table)


def student_of(model: onnx.ModelProto, table: CalibrationTable) -> TorchGraph:
    """The quantised form of a float graph to be trained, with the weights as they are before rounding."""
    student = TorchGraph(quantized(model, table, keep_clips=True))
    exact = {tensor.name: tensor for tensor in model.graph.initializer}
    for name in student.weights.values():
        student.set_value(name, numpy_helper.to_array(exact[name]))
    return student


def learned(
    student: TorchGraph, model: onnx.ModelProto, table: CalibrationTable
) -> tuple[onnx.ModelProto, CalibrationTable]:
    """The float graph and the table that stand for a trained student."""
    weights = ConvolutionWeights(model)
    with torch.no_grad():
        for convolution, name in student.weights.items():
            weights.set_weight(convolution, student.value(name).numpy())
        for convolution, name in student.biases.items():
            weights.set_bias(convolution, student.value(name).numpy())
        amax = {name: _amax(student, scale).item() for name, scale in student.activations.items()}
        channels = {
            convolution: _amax(student, student.weight_scales[name]).tolist()
            for convolution, name in student.weights.items()
            if name in student.weight_scales
        }
    return weights.model, dataclasses.replace(table, amax=table.amax | amax, weights=table.weights | channels)


def _amax(student: TorchGraph, scale: str) -> np.ndarray:
    """Exact in float64: a scale has 11 bits, so that amax / 127 is the scale again."""
    return student.value(scale).numpy().astype(np.float64) * LARGEST


def rate_factor(step: int, steps: int) -> float:
    """Of the learning rate at step 0 to steps - 1: linear warm-up, then half a cosine down to 0."""
    warmup = max(int(WARMUP * steps), 1)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return (1 + math.cos(math.pi * (step - warmup + 1) / (steps - warmup + 1))) / 2


def drawn(pictures: TuningPictures, indices: list[int]) -> tuple[Tensor, Tensor | None]:
    """Pictures (N, H, W, 3) uint8 and labels (N, H, W) int64 or None, mirrored and recoloured at random."""
    distort = PhotometricDistort(1.0)
    images, labels = [], []
    for index in indices:
        image, target = pictures.pairs[index]()
        mirrored = bool(torch.rand(()) < 0.5)
        picture = distort(torch.from_numpy(image[:, ::-1].copy() if mirrored else image).permute(2, 0, 1))
        images.append(picture.permute(1, 2, 0))
        if target is not None:
            labels.append(torch.from_numpy(target[:, ::-1].copy() if mirrored else target).long())
    return torch.stack(images), torch.stack(labels) if labels else None


def loss_of(logits: Tensor, taught: Tensor, labels: Tensor | None, align_corners: bool) -> Tensor:
    """Divergence from the float network, plus cross-entropy where there are labels; see `finetuned`.

    logits, taught: (N, C, h, w) of the quantised and the float network. labels: (N, H, W) int64, 255 is left out.
    """
    own, target = logits.log_softmax(1), taught.log_softmax(1)
    divergence = F.kl_div(own, target, reduction="none", log_target=True).sum(1).mean()
    if labels is None or not (labels != IGNORE).any():
        return divergence
    full = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=align_corners)
    return divergence + F.cross_entropy(full, labels, ignore_index=IGNORE)
