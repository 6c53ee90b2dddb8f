"""Exponential moving average of the weights."""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def averaged_model(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of the model, `.module`, whose parameters follow the model's: average = d * average + (1 - d) * model.

    `update_parameters(model)` is called once after each optimiser step; the first call copies the parameters, and call
    t + 1 takes d = min(decay, (1 + t) / (10 + t)), so that the beginning is soon forgotten (TensorFlow's
    ExponentialMovingAverage). Buffers, such as the statistics of batch norm, are copied. `state_dict` holds all of it.
    model: not wrapped by DDP or torch.compile. The copy keeps its own train or eval mode.
    """

    def average(
        averages: tuple[Tensor, ...] | list[Tensor], current: tuple[Tensor, ...] | list[Tensor], t: Tensor | int
    ) -> None:
        count = int(t)
        get_ema_multi_avg_fn(min(decay, (1 + count) / (10 + count)))(averages, current, count)

    averaged = AveragedModel(model, multi_avg_fn=average)
    averaged.requires_grad_(False)
    return averaged
