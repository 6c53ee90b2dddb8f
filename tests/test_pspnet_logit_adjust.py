"""Logit adjustment: the loss against its formula, and what is learned under it against the optimum."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pspnet.losses import Criterion
from pspnet.recipe import TrainConfig

FLOAT32 = 1e-5  # relative: sums over a few hundred float32 values
OPTIMISED = 1e-2  # relative: where L-BFGS stops in float32
WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 7.0])


def test_logit_adjustment_is_in_the_loss_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 9, 11, generator=generator)
    labels = torch.randint(0, 4, (2, 9, 11), generator=generator)
    labels[0, :2] = 255
    config = TrainConfig(class_weights="enet", logit_adjust=0.5)
    adjusted = Criterion(config, False, {"aux3": 0.4}, WEIGHTS)
    likelihood = logits.softmax(1) * WEIGHTS.sqrt().view(-1, 1, 1)
    likelihood = likelihood / likelihood.sum(1, keepdim=True)
    expected = F.nll_loss(likelihood.log(), labels, WEIGHTS, ignore_index=255, reduction="sum")
    for total, _ in adjusted({"out": logits, "aux3": logits}, labels).values():
        assert float(total) == pytest.approx(float(expected), rel=FLOAT32)


def test_what_is_learned_under_logit_adjustment_leans_less_to_heavy_classes() -> None:
    share = torch.tensor([0.7, 0.2, 0.07, 0.03])
    labels = torch.repeat_interleave(torch.arange(4), (share * 100).round().long()).view(1, 10, 10)
    learned = {}
    for power in (0.0, 0.5, 1.0):
        criterion = Criterion(TrainConfig(class_weights="enet", logit_adjust=power), False, {}, WEIGHTS)
        bias = torch.zeros(1, 4, 1, 1, requires_grad=True)
        optimizer = torch.optim.LBFGS([bias], max_iter=200, line_search_fn="strong_wolfe")

        def closure(criterion=criterion, bias=bias, optimizer=optimizer):  # type: ignore[no-untyped-def]
            optimizer.zero_grad()
            total, count = criterion({"out": bias.expand(1, 4, 10, 10)}, labels)["out"]
            (total / count).backward()
            return total / count

        optimizer.step(closure)
        learned[power] = bias.detach().softmax(1).flatten()
    for power, found in learned.items():
        expected = share * WEIGHTS ** (1 - power)
        np.testing.assert_allclose(found.numpy(), (expected / expected.sum()).numpy(), rtol=OPTIMISED)


def test_without_the_adjustment_a_weight_may_be_zero() -> None:
    labels = torch.tensor([[[0, 1]]])
    criterion = Criterion(TrainConfig(class_weights="enet"), False, {}, torch.tensor([0.0, 1.0]))
    total, count = criterion({"out": torch.zeros(1, 2, 1, 2)}, labels)["out"]
    assert float(total / count) == pytest.approx(np.log(2), rel=FLOAT32)
