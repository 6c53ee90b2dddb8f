"""Distillation: a student learns from a teacher's maps, with labels or without.

Channel-wise knowledge distillation (Shu et al., "Channel-wise Knowledge Distillation for Dense Prediction", ICCV 2021,
https://arxiv.org/abs/2011.13256) on the logits and, where asked for, on the backbones' last maps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pspnet.checkpoint import load_model
from pspnet.distributed import replicated
from pspnet.errors import PspnetError
from pspnet.model import PSPNet
from pspnet.spec import ModelSpec, NetworkSpec


@dataclass(frozen=True)
class TeacherMaps:
    """What a teacher says of a batch. logits: (N, C, h, w); features: (N, F, h, w), None where it keeps them.

    picture_size: (height, width) of the pictures that it saw; align_corners: how its maps lie on them.
    """

    logits: Tensor
    features: Tensor | None
    picture_size: tuple[int, int]
    align_corners: bool


class Teacher(Protocol):
    """A trained network that a student learns from."""

    feature_channels: int | None

    def __call__(self, images: Tensor) -> TeacherMaps:
        """Maps of pictures (N, 3, H, W) that are normalised as the student's."""
        ...


class CheckpointTeacher:
    """A PSPNet in eval mode on the device of the pictures, at their size."""

    def __init__(self, spec: ModelSpec, model: PSPNet, student: ModelSpec) -> None:
        self.spec, self.student = spec, student
        model = model.eval().requires_grad_(False)
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.feature_channels: int | None = model.backbone.channels

    def __call__(self, images: Tensor) -> TeacherMaps:
        self.model.to(images.device)
        if (self.spec.mean, self.spec.std) != (self.student.mean, self.student.std):
            images = (_pixels(images, self.student) - _bands(self.spec.mean, images)) / _bands(self.spec.std, images)
        features = self.model.backbone(images, ())[0]
        size = (images.shape[2], images.shape[3])
        return TeacherMaps(self.model.head(features), features, size, self.spec.align_corners)


class RunnerTeacher:
    """Any network that takes uint8 pictures of one fixed size; crops of another size are resized to it.

    infer: (N, H, W, 3) uint8 RGB -> logits (N, C, h, w) float32, as a Runner's.
    """

    feature_channels: int | None = None

    def __init__(self, infer: Callable[[np.ndarray], np.ndarray], spec: NetworkSpec, student: ModelSpec) -> None:
        self.infer, self.spec, self.student = infer, spec, student

    def __call__(self, images: Tensor) -> TeacherMaps:
        pixels = _pixels(images, self.student)
        if pixels.shape[2:] != self.spec.input_size:
            pixels = F.interpolate(pixels, self.spec.input_size, mode="bilinear", antialias=True)
        whole = pixels.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        logits = self.infer(np.ascontiguousarray(whole.cpu().numpy()))
        on_device = torch.from_numpy(np.array(logits)).to(images.device)  # a copy: it lives until the next call only
        return TeacherMaps(on_device, None, self.spec.input_size, self.spec.align_corners)


class Distiller(nn.Module):
    """The loss that pulls a student towards its teacher. The teacher is no part of its parameters or state.

    weight, feature_weight: of the loss on logits and on features. student: the network that is trained. Where the
    widths of the features differ, a 1x1 convolution adapts the student's; it is trained along and not kept.
    """

    def __init__(
        self, teacher: Teacher, student: PSPNet, spec: ModelSpec, weight: float, temperature: float,
        feature_weight: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.teacher, self.align_corners = teacher, spec.align_corners
        self.weight, self.temperature, self.feature_weight = weight, temperature, feature_weight
        self.adapter: nn.Module | None = None
        self._replica: list[nn.Module] = []  # in a list, so that its parameters count once
        self._seen: list[Tensor] = []
        if feature_weight:
            if teacher.feature_channels is None:
                raise PspnetError(
                    "--distill-features needs the teacher's checkpoint (.pt): an exported one has no features"
                )
            if teacher.feature_channels != student.backbone.channels:
                self.adapter = nn.Conv2d(student.backbone.channels, teacher.feature_channels, 1, bias=False)
            _follow(student.backbone, self._seen)

    def forward(self, images: Tensor, outputs: dict[str, Tensor], features: Tensor | None = None) -> Tensor:
        """A scalar for pictures (N, 3, H, W), normalised as the student's, and what the student made of them.

        outputs: as a PSPNet's. features: its backbone's last map, by default that of the last pass in training mode.
        """
        kind = outputs["out"].dtype  # the teacher computes in the student's precision
        with torch.no_grad(), torch.autocast(images.device.type, kind, enabled=kind != torch.float32):
            maps = self.teacher(images)
        size = (images.shape[2], images.shape[3])
        loss = self.weight * self._divergence(outputs["out"], maps.logits, maps, size)
        if self.feature_weight:
            assert maps.features is not None
            features = self._seen.pop() if features is None else features
            loss = loss + self.feature_weight * self._divergence(self._adapted(features), maps.features, maps, size)
        return loss

    def _divergence(self, student: Tensor, teacher: Tensor, maps: TeacherMaps, size: tuple[int, int]) -> Tensor:
        aligned = resampled(
            teacher.float(), (student.shape[2], student.shape[3]), maps.picture_size, size, maps.align_corners,
            self.align_corners,
        )  # fmt: skip
        return channel_divergence(student.float(), aligned, self.temperature)

    def _adapted(self, features: Tensor) -> Tensor:
        if self.adapter is None:
            return features
        if not self._replica:
            self._replica.append(replicated(self.adapter))  # gradients averaged over processes, as the student's
        return self._replica[0](features.float())


def channel_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """CWD of maps (N, C, h, w): Σ_c KL(softmax(teacher_c / T) ‖ softmax(student_c / T)) · T² / C, mean over N.

    Each channel's softmax runs over its h * w places (Shu et al., equations 3 and 4).
    """
    count, channels = student.shape[:2]
    ours, theirs = (F.log_softmax(x.flatten(2) / temperature, 2) for x in (student, teacher))
    return F.kl_div(ours, theirs, reduction="sum", log_target=True) * temperature**2 / (count * channels)


def resampled(
    maps: Tensor, size: tuple[int, int], seen_size: tuple[int, int], picture_size: tuple[int, int],
    align_corners: bool, wanted_corners: bool,
) -> Tensor:  # fmt: skip
    """`maps` of a picture of `seen_size` at the places of a map of `size` over the same picture at `picture_size`.

    align_corners: whether the outermost values of a map lie on the corner pixels' centres; of `maps`, and of the map
    wanted. Bilinear between values; beyond the outermost ones, their value.
    """
    if maps.shape[2:] == size and align_corners == wanted_corners and (seen_size == picture_size or not align_corners):
        return maps
    axes = []
    for have, want, seen, pixels in zip(maps.shape[2:], size, seen_size, picture_size, strict=True):
        share = torch.arange(want, device=maps.device, dtype=maps.dtype)  # place / pixels, pixel edges at whole numbers
        share = (share * (pixels - 1) / max(want - 1, 1) + 0.5) / pixels if wanted_corners else (share + 0.5) / want
        place = (share * seen - 0.5) * (have - 1) / max(seen - 1, 1) if align_corners else share * have - 0.5
        axes.append(2 * place / max(have - 1, 1) - 1)
    rows, columns = torch.meshgrid(*axes, indexing="ij")
    grid = torch.stack([columns, rows], 2).expand(len(maps), -1, -1, -1)
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=True)


def checkpoint_teacher(path: str | Path, student: ModelSpec) -> CheckpointTeacher:
    """The teacher in a checkpoint; PspnetError where its classes are not the student's."""
    spec, model = load_model(path)
    _check_classes(spec, path, student)
    return CheckpointTeacher(spec, model, student)


def runner_teacher(runner: Any, path: str | Path, student: ModelSpec) -> RunnerTeacher:
    """The teacher behind a Runner that was opened from `path`; PspnetError where it lacks logits of these classes."""
    kind = getattr(runner.spec, "output_kind", runner.gives)
    if kind != "logits":
        raise PspnetError(f"the teacher {path} gives {kind}, but logits are needed: export the network without its end")
    _check_classes(runner.spec, path, student)
    return RunnerTeacher(runner.infer, runner.spec, student)


def _check_classes(spec: NetworkSpec, path: str | Path, student: ModelSpec) -> None:
    if spec.class_names != student.class_names:
        first = next(
            (
                i
                for i, pair in enumerate(zip(spec.class_names, student.class_names, strict=False))
                if pair[0] != pair[1]
            ),
            min(spec.classes, student.classes),
        )
        theirs, ours = ((*s.class_names, "nothing")[first] for s in (spec, student))
        raise PspnetError(
            f"the teacher {path} knows {spec.classes} classes, the student {student.classes}; class {first} is "
            f"{theirs} and {ours}: both must agree. Train the teacher on this data set"
        )


def _follow(backbone: nn.Module, seen: list[Tensor]) -> None:
    """Keep the last map of every pass in training mode in `seen`, until the next one."""

    def keep(module: nn.Module, inputs: Any, maps: tuple[Tensor, ...]) -> None:
        if module.training:
            seen[:] = [maps[0]]

    backbone.register_forward_hook(keep)


def _pixels(images: Tensor, spec: ModelSpec) -> Tensor:
    """Grey levels 0..255 of pictures that are normalised with the spec's mean and std."""
    return images * _bands(spec.std, images) + _bands(spec.mean, images)


def _bands(values: tuple[float, float, float], like: Tensor) -> Tensor:
    return torch.tensor(values, device=like.device, dtype=like.dtype).view(1, 3, 1, 1)
