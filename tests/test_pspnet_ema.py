"""The moving average of the weights against its recursion in NumPy and float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pspnet.ema import averaged_model

FLOAT32 = 1e-5  # relative: thirty steps of float32 rounding
DECAY = 0.6  # below the ramp's values after step 5, so that both rules are at work in thirty steps


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))


def disturb(model: nn.Module) -> None:
    """Other weights, and other statistics of batch norm."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    model.train()(torch.randn(2, 3, 8, 8))


def test_average_is_the_recursion_and_buffers_are_copied() -> None:
    model = small_net()
    averaged = averaged_model(model, DECAY)
    expected: dict[str, np.ndarray] = {}
    decays = []
    for step in range(30):
        disturb(model)
        averaged.update_parameters(model)
        for name, parameter in model.named_parameters():
            value = parameter.detach().double().numpy()
            decay = min(DECAY, (1 + step) / (10 + step)) if step else 0.0
            expected[name] = decay * expected.get(name, value) + (1 - decay) * value
        decays.append(decay)
        for name, parameter in averaged.module.named_parameters():
            np.testing.assert_allclose(parameter.numpy(), expected[name], rtol=FLOAT32, atol=FLOAT32)
        for name, buffer in averaged.module.named_buffers():
            assert torch.equal(buffer, dict(model.named_buffers())[name]), name
    assert DECAY in decays and len(set(decays)) > 5
    assert dict(averaged.module.named_buffers())["1.num_batches_tracked"] == 30


def test_the_copy_is_apart_from_the_model() -> None:
    model = small_net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    averaged = averaged_model(model, DECAY)
    assert not any(parameter.requires_grad for parameter in averaged.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    disturb(model)
    assert all(torch.equal(value, before[name]) for name, value in averaged.module.state_dict().items())
    averaged.update_parameters(model)
    changed = {name: value.clone() for name, value in model.state_dict().items()}
    assert all(torch.equal(value, changed[name]) for name, value in averaged.module.state_dict().items())
    disturb(averaged.module)
    assert all(torch.equal(value, changed[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("updates", [0, 1, 7])
def test_a_resumed_average_goes_on_bit_for_bit(updates: int, tmp_path: Path) -> None:
    def run(resume: bool) -> dict[str, torch.Tensor]:
        model = small_net()
        averaged = averaged_model(model, DECAY)
        for step in range(12):
            if resume and step == updates:
                torch.save(averaged.state_dict(), tmp_path / "average.pt")
                averaged = averaged_model(small_net(), DECAY)
                averaged.load_state_dict(torch.load(tmp_path / "average.pt", weights_only=True))
                torch.manual_seed(0)
            elif step == updates:
                torch.manual_seed(0)
            disturb(model)
            averaged.update_parameters(model)
        return dict(averaged.state_dict())

    whole, resumed = run(False), run(True)
    assert whole.keys() == resumed.keys() and all(torch.equal(value, resumed[name]) for name, value in whole.items())
    assert whole["n_averaged"] == 12
