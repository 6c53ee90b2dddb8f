"""Distillation: the loss against its formula, teachers of every kind on the same pixels, and what is left alone."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import rel_entr, softmax

from pspnet.checkpoint import replace_spec, save_checkpoint
from pspnet.distill import (
    CheckpointTeacher,
    Distiller,
    RunnerTeacher,
    channel_divergence,
    checkpoint_teacher,
    resampled,
    runner_teacher,
)
from pspnet.errors import PspnetError
from pspnet.model import PSPNet
from pspnet.spec import ModelSpec
from runtime.runner import open_runner
from tests.nets import random_model

SIZE = (96, 128)
FLOAT32 = 1e-5  # relative: sums over some hundred float32 values
ENGINE = 1e-4  # of the largest logit: another engine, and normalisation folded into its first convolution
NO_LOSS = 1e-6  # the same network twice: what is left is rounding
Network = tuple[ModelSpec, PSPNet]


@pytest.fixture(scope="module")
def student() -> Network:
    return random_model("mobilenet_v2", 16, SIZE)


@pytest.fixture(scope="module")
def teacher() -> Network:
    return random_model("resnet18", 16, SIZE, mean=(110.0, 120.0, 130.0), std=(50.0, 60.0, 70.0), align_corners=True)


def grey_levels(count: int = 2, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *size, 3), np.uint8)


def normalised(pixels: np.ndarray, spec: ModelSpec) -> torch.Tensor:
    """(N, H, W, 3) uint8 as the network of `spec` takes it, by the definition."""
    return torch.from_numpy(((pixels - np.array(spec.mean)) / spec.std).transpose(0, 3, 1, 2)).float()


def distiller_of(teacher: Any, student: Network, features: float = 0.0) -> Distiller:
    return Distiller(teacher, student[1], student[0], 3.0, 4.0, features)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_loss_is_the_papers(temperature: float) -> None:
    generator = np.random.default_rng(0)
    ours, theirs = (generator.normal(0, 5, (2, 7, 6, 8)) for _ in range(2))
    places = [softmax(x.reshape(2, 7, -1) / temperature, axis=2) for x in (theirs, ours)]
    expected = temperature**2 / 7 * rel_entr(*places).sum() / 2  # KL(teacher || student), mean over the pictures
    found = channel_divergence(*(torch.from_numpy(x).float() for x in (ours, theirs)), temperature)
    np.testing.assert_allclose(float(found), expected, rtol=FLOAT32)


def test_a_student_that_is_its_teacher_loses_nothing(student: Network) -> None:
    spec, model = student
    own = distiller_of(CheckpointTeacher(spec, copy.deepcopy(model), spec), student, features=50.0)
    images = normalised(grey_levels(), spec)
    with torch.no_grad():
        features = model.backbone(images)[0]
        outputs = {"out": model.head(features)}
        assert abs(float(own(images, outputs, features))) < NO_LOSS
        noisy = {"out": outputs["out"] + torch.randn(outputs["out"].shape)}
        assert float(own(images, noisy, features)) > 1000 * NO_LOSS


def test_only_the_student_and_its_adapter_learn(student: Network, teacher: Network) -> None:
    spec, model = student[0], copy.deepcopy(student[1])
    master = CheckpointTeacher(*teacher, spec)
    distiller = distiller_of(master, (spec, model), features=50.0)
    assert [p.shape for p in distiller.parameters()] == [(512, 320, 1, 1)]
    assert list(distiller.state_dict()) == ["adapter.weight"]
    images = normalised(grey_levels(), spec)
    distiller(images, model.train()(images)).backward()
    assert all(p.grad is None and not p.requires_grad for p in master.model.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.backbone.last.parameters())
    assert distiller.adapter is not None and distiller.adapter.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.aux_heads.parameters())


def test_features_of_validation_are_not_mistaken_for_the_batchs(student: Network, teacher: Network) -> None:
    spec, model = student[0], copy.deepcopy(student[1])
    distiller = distiller_of(CheckpointTeacher(*teacher, spec), (spec, model), features=1.0)
    images = normalised(grey_levels(), spec)
    torch.manual_seed(0)
    outputs = model.train()(images)
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, *SIZE))
        expected = distiller(images, outputs, distiller._seen[0])
        assert torch.equal(distiller(images, outputs), expected)


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("have", [(6, 8), (12, 16), (3, 5)])
def test_maps_of_another_size_are_interpolated(corners: bool, have: tuple[int, int]) -> None:
    maps = torch.randn(2, 3, *have, generator=torch.Generator().manual_seed(0))
    found = resampled(maps, (6, 8), SIZE, SIZE, corners, corners)
    expected = F.interpolate(maps, (6, 8), mode="bilinear", align_corners=corners)
    torch.testing.assert_close(found, expected, rtol=0, atol=FLOAT32)


@pytest.mark.parametrize("corners", [False, True])
def test_maps_of_the_other_convention_keep_their_places(corners: bool) -> None:
    """A map that holds the picture's own rows and columns still does so at the places of the other convention."""

    def places(count: int, pixels: int, corners: bool) -> np.ndarray:
        index = np.arange(count)
        return index * (pixels - 1) / (count - 1) if corners else (index + 0.5) * pixels / count - 0.5

    def ramp(size: tuple[int, int], corners: bool) -> np.ndarray:
        return np.stack(np.meshgrid(*(places(n, p, corners) for n, p in zip(size, SIZE, strict=True)), indexing="ij"))

    have, want = ramp((12, 16), corners), ramp((6, 8), not corners)
    seen_twice_as_large = resampled(
        torch.from_numpy(have)[None].float(), (6, 8), SIZE, SIZE, corners, not corners
    )[0]  # fmt: skip
    low, high = have.min((1, 2), keepdims=True), have.max((1, 2), keepdims=True)
    np.testing.assert_allclose(seen_twice_as_large.numpy(), np.clip(want, low, high), atol=1e-3)  # pixels of float32


def test_a_teacher_sees_its_own_normalisation(student: Network, teacher: Network) -> None:
    pixels = grey_levels()
    maps = CheckpointTeacher(*teacher, student[0])(normalised(pixels, student[0]))
    with torch.no_grad():
        expected = teacher[1](normalised(pixels, teacher[0]))["out"]
    largest = float(expected.abs().max())
    torch.testing.assert_close(maps.logits, expected, rtol=0, atol=ENGINE * largest)
    assert maps.align_corners and maps.features is not None and maps.features.shape == (2, 512, 6, 8)


@pytest.mark.parametrize("engine", ["ort", "openvino"])
def test_an_exported_teacher_says_what_its_checkpoint_says(
    small_checkpoint: Path, small_onnx: Path, student: Network, engine: str
) -> None:
    spec = replace_spec(student[0], mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0))
    images = normalised(grey_levels(), spec)
    expected = checkpoint_teacher(small_checkpoint, spec)(images)
    with open_runner(small_onnx, engine, 1) as runner:
        found = runner_teacher(runner, small_onnx, spec)(images)
    torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=ENGINE * float(expected.logits.abs().max()))
    assert found.picture_size == expected.picture_size and found.features is None


def test_a_crop_is_resized_to_an_exported_teachers_size(student: Network) -> None:
    seen: list[np.ndarray] = []

    def infer(images: np.ndarray) -> np.ndarray:
        seen.append(images)
        return np.zeros((len(images), 11, 6, 8), np.float32)

    pixels = np.full((2, 64, 64, 3), (10, 200, 77), np.uint8)
    maps = RunnerTeacher(infer, student[0], student[0])(normalised(pixels, student[0]))
    assert seen[0].dtype == np.uint8 and seen[0].shape == (2, *SIZE, 3) and seen[0].flags.c_contiguous
    assert (seen[0] == (10, 200, 77)).all() and maps.picture_size == SIZE
    distiller = distiller_of(RunnerTeacher(infer, student[0], student[0]), student)
    logits = torch.randn(2, 11, 4, 4, requires_grad=True)
    distiller(normalised(pixels, student[0]), {"out": logits}).backward()
    assert logits.grad is not None and logits.grad.abs().sum() > 0


def test_unsuitable_teachers_are_refused(tmp_path: Path, small_checkpoint: Path, student: Network) -> None:
    spec, _ = student
    others = replace_spec(spec, class_names=("Sky", "House", *spec.class_names[2:]))
    with pytest.raises(PspnetError, match=r"class 1 is Building and House: both must agree"):
        checkpoint_teacher(small_checkpoint, others)
    fewer = replace_spec(spec, class_names=spec.class_names[:9], palette=spec.palette[:9])
    with pytest.raises(PspnetError, match=r"knows 11 classes, the student 9; class 9 is Pedestrian and nothing"):
        checkpoint_teacher(small_checkpoint, fewer)
    for gives, kind in (("labels", "labels"), ("logits", "probabilities")):
        end = SimpleNamespace(gives=gives, spec=SimpleNamespace(output_kind=kind))
        with pytest.raises(PspnetError, match=f"gives {kind}, but logits are needed"):
            runner_teacher(end, "guest.onnx", spec)
    with pytest.raises(PspnetError, match=r"--distill-features needs the teacher's checkpoint"):
        distiller_of(RunnerTeacher(lambda images: images, spec, spec), student, features=1.0)
    damaged = tmp_path / "damaged.pt"
    save_checkpoint(damaged, spec, {"nothing": torch.zeros(1)})
    with pytest.raises(PspnetError, match="do not belong together"):
        checkpoint_teacher(damaged, spec)
