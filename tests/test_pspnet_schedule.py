"""Parameter groups, optimisers and learning rates against torch's own schedulers and a plain restatement."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    PolynomialLR,
    SequentialLR,
)

from pspnet.errors import PspnetError
from pspnet.recipe import TrainConfig
from pspnet.schedule import optimizer_from_config, rate_factor, schedule_from_config
from tests.nets import random_model

RELATIVE = 1e-9  # float64; torch's schedulers multiply step by step, ours are closed forms
STEPS = 40


def two_groups() -> SGD:
    """Two parameters, of which the second has a rate ten times as high."""
    return SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in (0.02, 0.2)])


def rates(optimizer: Optimizer, schedule: LRScheduler, steps: int = STEPS) -> list[tuple[float, ...]]:
    """The rates of all groups at every step."""
    found = []
    for _ in range(steps):
        found.append(tuple(float(group["lr"]) for group in optimizer.param_groups))
        optimizer.step()
        schedule.step()
    return found


def ours(**settings: Any) -> list[tuple[float, ...]]:
    optimizer = two_groups()
    return rates(optimizer, schedule_from_config(optimizer, TrainConfig(**settings), STEPS))


@pytest.mark.parametrize("power", [0.5, 0.9, 2.0])
def test_poly_is_torchs(power: float) -> None:
    optimizer = two_groups()
    expected = rates(optimizer, PolynomialLR(optimizer, STEPS, power))
    for mine, theirs in zip(ours(schedule="poly", power=power), expected, strict=True):
        assert mine == pytest.approx(theirs, rel=RELATIVE)


def test_poly_with_a_floor_is_mmengines_recursion() -> None:
    """PolyParamScheduler: rate_t = (rate_(t-1) - floor) * (1 - 1 / (T - t + 1)) ** power + floor."""
    floor, rate, expected = 0.02 * 0.05, 0.02, [0.02]
    for step in range(1, STEPS):
        rate = (rate - floor) * (1 - 1 / (STEPS - step + 1)) ** 0.9 + floor
        expected.append(rate)
    mine = [first for first, _ in ours(schedule="poly", min_lr=0.05)]
    assert mine == pytest.approx(expected, rel=RELATIVE) and mine[-1] > floor


@pytest.mark.parametrize("floor", [0.0, 0.05])
def test_cosine_is_torchs(floor: float) -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = SGD([parameter], lr=0.02)
    expected = rates(optimizer, CosineAnnealingLR(optimizer, STEPS, eta_min=0.02 * floor))
    mine = [first for first, _ in ours(schedule="cosine", min_lr=floor)]
    assert mine == pytest.approx([rate for (rate,) in expected], rel=1e-6)  # theirs multiplies 40 rounded ratios


@pytest.mark.parametrize("warmup", [0, 5])
@pytest.mark.parametrize("floor", [1e-6, 0.05])
def test_one_cycle_is_torchs(warmup: int, floor: float) -> None:
    optimizer = two_groups()
    theirs = OneCycleLR(
        optimizer, [0.02, 0.2], STEPS, pct_start=warmup / STEPS or 0.3, final_div_factor=1 / 25 / floor,
        cycle_momentum=False,
    )  # fmt: skip
    expected = rates(optimizer, theirs)
    mine = ours(schedule="onecycle", warmup=warmup, min_lr=floor)
    for at_step, of_torch in zip(mine, expected, strict=True):
        assert at_step == pytest.approx(of_torch, rel=RELATIVE)
    assert (
        max(mine)[0] > 0.019 and mine[0][0] == pytest.approx(0.02 / 25) and mine[-1][0] == pytest.approx(0.02 * floor)
    )


@pytest.mark.parametrize("schedule", ["poly", "cosine"])
def test_warm_up_is_torchs_linear_rate_before_the_rest(schedule: str) -> None:
    optimizer = two_groups()
    rest = PolynomialLR(optimizer, STEPS - 6, 0.9) if schedule == "poly" else CosineAnnealingLR(optimizer, STEPS - 6)
    theirs = SequentialLR(optimizer, [LinearLR(optimizer, 0.01, total_iters=6), rest], [6])
    expected = rates(optimizer, theirs)
    mine = ours(schedule=schedule, warmup=6)
    for at_step, of_torch in zip(mine, expected, strict=True):
        assert at_step == pytest.approx(of_torch, rel=1e-6)
    assert mine[0][0] == pytest.approx(0.0002) and mine[6][0] == pytest.approx(0.02)


@pytest.mark.parametrize("schedule", ["poly", "cosine", "onecycle"])
@pytest.mark.parametrize("warmup", [0, 3])
@pytest.mark.parametrize("steps", [4, 5, 1000])
def test_rates_stay_between_the_floor_and_the_base_and_keep_their_ratio(schedule: str, warmup: int, steps: int) -> None:
    config = TrainConfig(schedule=schedule, warmup=warmup, min_lr=0.005)
    factors = [rate_factor(config, step, steps) for step in range(steps + 3)]
    assert all(0.005 - 1e-12 <= factor <= 1 for factor in factors)
    assert factors[-1] == pytest.approx(0.005)
    rising = [a < b for a, b in itertools.pairwise(factors[:steps])]
    assert sorted(rising, reverse=True) == rising  # first up, then down
    assert all(high == pytest.approx(10 * low) for low, high in ours(schedule=schedule, warmup=warmup))


@pytest.mark.parametrize("schedule", ["poly", "cosine", "onecycle"])
def test_a_run_of_one_step_has_a_rate(schedule: str) -> None:
    assert rate_factor(TrainConfig(schedule=schedule), 0, 1) == 1


@pytest.mark.parametrize("schedule", ["poly", "cosine", "onecycle"])
def test_a_resumed_schedule_goes_on_exactly(schedule: str) -> None:
    config = TrainConfig(schedule=schedule, warmup=4)
    whole = ours(schedule=schedule, warmup=4)
    optimizer = two_groups()
    begun = schedule_from_config(optimizer, config, STEPS)
    rates(optimizer, begun, 17)
    stored = optimizer.state_dict(), begun.state_dict()
    again = two_groups()
    resumed = schedule_from_config(again, config, STEPS)
    again.load_state_dict(stored[0])
    resumed.load_state_dict(stored[1])
    assert rates(again, resumed, STEPS - 17) == whole[17:]


def test_a_warm_up_longer_than_the_run_is_refused() -> None:
    with pytest.raises(PspnetError, match="takes 40 steps, but the run has only 40: lower --warmup or raise --epochs"):
        ours(warmup=STEPS)


@pytest.mark.parametrize("decay_norm", [True, False])
def test_every_parameter_has_its_rate_and_decay(decay_norm: bool) -> None:
    _, model = random_model("resnet18", 32, (192, 192))
    config = TrainConfig(lr=0.02, head_lr=5, weight_decay=3e-4, decay_norm=decay_norm)
    optimizer = optimizer_from_config(model, config)
    settings = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len(settings) == sum(len(group["params"]) for group in optimizer.param_groups)
    seen = set()
    for name, parameter in model.named_parameters():
        group = settings[id(parameter)]
        assert group["lr"] == pytest.approx(0.02 if name.startswith("backbone.") else 0.1)
        assert group["weight_decay"] == (3e-4 if decay_norm or parameter.ndim > 1 else 0)
        seen.add((name.split(".")[0], parameter.ndim > 1))
    assert len(seen) >= 6  # backbone, head and aux head, with matrices and vectors
    assert optimizer.param_groups[0]["name"] == "backbone" and optimizer.param_groups[0]["lr"] == 0.02
    assert len(optimizer.param_groups) == (2 if decay_norm else 4)


class TwoParts(nn.Module):
    """A backbone and a head of a few numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = nn.Linear(3, 2), nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


def restated(name: str, weight: Tensor, gradients: list[Tensor], lr: float, beta: float, decay: float) -> Tensor:
    """SGD with momentum (Sutskever, as in torch), Adam with L2 decay, AdamW (Loshchilov and Hutter), in float64."""
    weight, first, second = weight.double(), 0.0, 0.0
    for step, raw in enumerate(gradients, 1):
        gradient = raw.double() + (decay * weight if name != "adamw" else 0)
        if name == "sgd":
            first = beta * first + gradient
            weight = weight - lr * first
            continue
        first = beta * first + (1 - beta) * gradient
        second = 0.999 * second + 0.001 * gradient**2
        weight = weight * (1 - lr * decay) if name == "adamw" else weight
        weight = weight - lr * (first / (1 - beta**step)) / ((second / (1 - 0.999**step)) ** 0.5 + 1e-8)
    return weight


@pytest.mark.parametrize(("name", "kind"), [("sgd", SGD), ("adam", Adam), ("adamw", AdamW)])
def test_optimisers_step_as_their_papers_say(name: str, kind: type[Optimizer]) -> None:
    torch.manual_seed(0)
    model = TwoParts().double()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    config = TrainConfig(optimizer=name, lr=0.01, head_lr=3, momentum=0.8, weight_decay=0.1, decay_norm=False)
    optimizer = optimizer_from_config(model, config)
    assert type(optimizer) is kind
    gradients = [{key: torch.randn_like(value) for key, value in before.items()} for _ in range(5)]
    for step in gradients:
        for key, parameter in model.named_parameters():
            parameter.grad = step[key]
        optimizer.step()
    for key, parameter in model.named_parameters():
        rate, decay = (0.01 if "backbone" in key else 0.03), (0.1 if parameter.ndim > 1 else 0)
        expected = restated(name, before[key], [step[key] for step in gradients], rate, 0.8, decay)
        torch.testing.assert_close(parameter.detach(), expected, rtol=RELATIVE, atol=0)
