"""One optimiser step against a plain restatement in torch: accumulation, clipping, mixed precision."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pspnet.errors import PspnetError
from pspnet.losses import Criterion
from pspnet.model import PSPNet
from pspnet.recipe import TrainConfig
from pspnet.train import new_state
from pspnet.train_step import TrainStep, autocast_dtype
from tests.nets import random_model

pytestmark = pytest.mark.usefixtures("one_thread")

SAME_SUMS = 1e-5  # relative: a float32 loss summed in another order
SAME_STEP = 1e-4  # float32 gradients summed in another order, at a high learning rate
FILES = [Path(f"{number}.png") for number in range(4)]
CONFIG = TrainConfig(batch=1, crop=64, freeze_bn=True, lr=0.1, head_lr=1.0, momentum=0.0, weight_decay=0.0, epochs=9)


def small_model() -> PSPNet:
    """Seeded, for 11 classes, without dropout."""
    _, model = random_model("resnet18", 32, (192, 192))
    for module in model.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0
    return model


def pictures() -> tuple[Tensor, Tensor]:
    """Four pictures of 64x64 whose labels are void to a different share."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, 64, 64, generator=generator)
    labels = torch.randint(0, 11, (4, 64, 64), generator=generator)
    for number in range(4):
        labels[number, : 15 * number] = 255
    return images, labels


def stepped(config: TrainConfig, batches: int, align_corners: bool = False) -> tuple[float, PSPNet]:
    """Loss and model after one step on the four pictures in `batches` parts."""
    model = small_model()
    state = new_state(model, config, 10)
    step = TrainStep(state, Criterion(config, align_corners, {"aux3": 0.4}), config, FILES, None)
    step.train_mode()
    images, labels = pictures()
    parts = zip(images.chunk(batches), labels.chunk(batches), torch.arange(4).chunk(batches), strict=True)
    return step([list(part) for part in parts], "here"), model


def restated(clip: float) -> tuple[float, PSPNet]:
    """The same step with torch's own mean over the labelled pixels and its own SGD."""
    model = small_model().train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
            module.weight.requires_grad = module.bias.requires_grad = False
    images, labels = pictures()
    loss = torch.zeros(())
    for key, logits in model(images).items():
        full = F.interpolate(logits, (64, 64), mode="bilinear", align_corners=False)
        loss = loss + (1.0 if key == "out" else 0.4) * F.cross_entropy(full, labels, ignore_index=255)
    loss.backward()
    found = [p for p in model.parameters() if p.requires_grad]
    norm = torch.stack([p.grad.norm() for p in found if p.grad is not None]).norm()
    factor = min(clip / float(norm), 1.0) if clip else 1.0
    with torch.no_grad():
        for parameter in found:
            parameter -= 0.1 * factor * parameter.grad
    return float(loss.detach()), model


@pytest.mark.parametrize("batches", [1, 2, 4])
@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_a_step_equals_its_restatement_for_every_division(batches: int, clip: float) -> None:
    loss, ours = stepped(dataclasses.replace(CONFIG, clip=clip), batches)
    expected, theirs = restated(clip)
    assert loss == pytest.approx(expected, rel=SAME_SUMS)
    for (name, value), other in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(value, other, rtol=0, atol=SAME_STEP, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("loss", ["ohem", "focal", "lovasz"])
def test_other_losses_move_the_weights(loss: str) -> None:
    value, model = stepped(dataclasses.replace(CONFIG, loss=loss), 2)
    before = small_model()
    assert value > 0 and not torch.equal(model.head.classifier.weight, before.head.classifier.weight)


def test_bfloat16_stays_near_float32() -> None:
    exact, rounded = (stepped(dataclasses.replace(CONFIG, amp=amp), 2)[0] for amp in ("off", "bf16"))
    assert rounded != exact and rounded == pytest.approx(exact, rel=0.03)  # bfloat16 holds 8 bits


def test_a_compiled_model_keeps_its_names_and_does_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled, original = [], torch.compile

    def compile(model: nn.Module) -> Any:
        compiled.append(model)
        return original(model, backend="eager")  # needs no compiler on the machine

    monkeypatch.setattr(torch, "compile", compile)
    loss, model = stepped(dataclasses.replace(CONFIG, compile=True), 1)
    expected, plain = stepped(CONFIG, 1)
    assert compiled and loss == pytest.approx(expected, rel=SAME_SUMS)
    assert model.state_dict().keys() == plain.state_dict().keys()


def test_precision_by_device() -> None:
    assert autocast_dtype("auto", "cuda") is torch.float16 and autocast_dtype("auto", "cpu") is None
    assert autocast_dtype("bf16", "cpu") is torch.bfloat16 and autocast_dtype("off", "cuda") is None
    with pytest.raises(PspnetError, match="--amp fp16 needs a GPU"):
        autocast_dtype("fp16", "cpu")


def test_only_the_files_of_the_bad_batch_are_named() -> None:
    model = small_model()
    state = new_state(model, CONFIG, 10)
    step = TrainStep(state, Criterion(CONFIG, False, {"aux3": 0.4}), CONFIG, FILES, None)
    step.train_mode()
    images, labels = pictures()
    images[2, 0, 0, 0] = float("inf")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(PspnetError, match=r"at epoch 3, step 4: lower --lr, or look at 2\.png$"):
        parts = zip(images.split(1), labels.split(1), torch.arange(4).split(1), strict=True)
        step([list(part) for part in parts], "epoch 3, step 4")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
