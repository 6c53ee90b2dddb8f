"""Losses as (total, count) pairs, so that a mean can be taken over processes and over accumulated batches.

Logits stay at the head's resolution until here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pspnet.class_weights import class_weights
from pspnet.dataset import Dataset
from pspnet.errors import PspnetError
from pspnet.recipe import TrainConfig
from pspnet.spec import IGNORE, ModelSpec

Term = tuple[Tensor, Tensor]
"""Sum of a loss over its items, and their number or weight (no gradient). Their quotient is the mean loss."""


class Criterion(nn.Module):
    """The loss of every head: {"out": logits, "aux3": ...}, labels -> {"out": (total, count), ...}.

    L = total / count of "out" + the sum over the aux heads of `weight_of(key)` * total / count (Zhao et al., section
    3.3). Logits (N, C, h, w) are interpolated to the labels (N, H, W) int64 in float32; pixels of 255 are left out.
    Where no pixel has a label, total is 0 with a gradient of 0, and count is 0.

    With class weights w and `logit_adjust` t, t * log(w) is added to the logits, here and not in the network. The
    network then learns logits of w^(1 - t) * p instead of w * p: rare classes weigh as much in training, and are not
    predicted as often beyond their share (Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, eq. 10).
    The weights must be above 0 then. What ohem and focal take for a pixel's probability is the adjusted one.
    """

    weights: Tensor | None
    offsets: Tensor | None

    def __init__(
        self,
        config: TrainConfig,
        align_corners: bool,
        aux_weights: dict[str, float] | None = None,
        weights: Tensor | None = None,
    ) -> None:
        """aux_weights: key of an aux head -> its factor. weights: (C,) class weights, or None."""
        super().__init__()
        self.config, self.align_corners, self.aux_weights = config, align_corners, aux_weights or {}
        self.register_buffer("weights", weights, persistent=False)
        offsets = (
            config.logit_adjust * weights.log().view(-1, 1, 1) if weights is not None and config.logit_adjust else None
        )
        self.register_buffer("offsets", offsets, persistent=False)

    def forward(self, outputs: dict[str, Tensor], labels: Tensor) -> dict[str, Term]:
        return {key: self._term(logits, labels) for key, logits in outputs.items()}

    def weight_of(self, key: str) -> float:
        """Factor of a head's loss: 1 for "out"."""
        return 1.0 if key == "out" else self.aux_weights[key]

    def count(self, labels: Tensor) -> Tensor | None:
        """What `forward` returns as count for these labels; None for OHEM, where it depends on the logits, too."""
        if self.config.loss == "ohem":
            return None
        if self.config.loss == "lovasz":
            return (labels != IGNORE).flatten(1).any(1).sum().float()
        return pixel_weights(labels, self.weights).sum()

    def _term(self, logits: Tensor, labels: Tensor) -> Term:
        logits = logits.float() if self.offsets is None else logits.float() + self.offsets
        full = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=self.align_corners)
        if self.config.loss == "ohem":
            return ohem(full, labels, self.config.ohem_threshold, self.config.ohem_keep, self.weights)
        if self.config.loss == "focal":
            return focal(full, labels, self.config.focal_gamma, self.weights)
        if self.config.loss == "lovasz":
            return lovasz(full, labels)
        return cross_entropy(full, labels, self.weights)


def criterion_from_config(config: TrainConfig, spec: ModelSpec, dataset: Dataset) -> Criterion:
    """The loss of a run. dataset: the training split; its label maps are read where class weights are asked for."""
    factors = config.aux_weight_values()
    stages = spec.aux_stages
    if len(factors) not in (1, len(stages)):
        raise PspnetError(
            f"{len(factors)} aux weights for {len(stages)} aux heads: give one for all, or one per stage of "
            f"{','.join(map(str, stages))} with --aux-weights"
        )
    factors = factors * len(stages) if len(factors) == 1 else factors
    aux_weights = {f"aux{stage}": factor for stage, factor in zip(stages, factors, strict=True)}
    weights = None
    if config.class_weights != "none":
        weights = torch.from_numpy(class_weights(dataset, config.class_weights)).float()
    return Criterion(config, spec.align_corners, aux_weights, weights)


def pixel_weights(labels: Tensor, weights: Tensor | None) -> Tensor:
    """(N, H, W) float32: the weight of each pixel's class, 1 without weights; 0 where the label is 255."""
    valid = labels != IGNORE
    if weights is None:
        return valid.float()
    return weights[labels.where(valid, 0)] * valid


def cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Term:
    """Cross-entropy times the class weight, summed over pixels; the sum of these weights.

    logits: (N, C, H, W). labels: (N, H, W) int64, 255 is left out. The same holds for the losses below.
    """
    share = pixel_weights(labels, weights)
    return (_surprise(logits, labels) * share).sum(), share.sum()


def focal(logits: Tensor, labels: Tensor, gamma: float, weights: Tensor | None = None) -> Term:
    """Cross-entropy times (1 - p)^gamma, p the probability of the right class (Lin et al., ICCV 2017, equation 5).

    The class weights are its alpha. Counted as cross-entropy is, so that gamma = 0 gives cross-entropy.
    """
    share, surprise = pixel_weights(labels, weights), _surprise(logits, labels)
    smallest = torch.finfo(surprise.dtype).tiny  # at p = 1 a gamma below 1 has an infinite slope
    wrong = (-torch.expm1(-surprise)).clamp_min(smallest)
    return (wrong**gamma * surprise * share).sum(), share.sum()


def ohem(logits: Tensor, labels: Tensor, threshold: float, keep: float, weights: Tensor | None = None) -> Term:
    """Cross-entropy over the hard pixels: those whose right class has a probability below the threshold.

    keep: least share of the labelled pixels of this batch; where fewer are hard, the hardest are taken (Shrivastava et
    al., CVPR 2016, in the form of BiSeNet, lib/ohem_ce_loss.py, and PIDNet).
    """
    valid = labels != IGNORE
    surprise, share = _surprise(logits, labels)[valid], pixel_weights(labels, weights)[valid]
    hard = surprise.detach().neg().exp() < threshold
    least = int(keep * len(surprise))
    if int(hard.sum()) < least:
        hard = torch.zeros_like(hard).index_fill_(0, surprise.detach().topk(least, sorted=False).indices, True)
    return (surprise * share)[hard].sum(), share[hard].sum()


def lovasz(logits: Tensor, labels: Tensor) -> Term:
    """Lovász-softmax (Berman et al., CVPR 2018): mean over a picture's classes, summed over pictures; their number.

    The convex extension of 1 - IoU in the error of each pixel, per picture and over the classes that its labels hold.
    Per picture, because the loss of a whole batch would change with its division over processes.
    """
    total, pictures = logits.sum() * 0, 0
    for picture, truth in zip(logits.softmax(1), labels, strict=True):
        valid = truth != IGNORE
        present = truth[valid].unique()
        if len(present):
            is_class = truth[valid] == present[:, None]  # (classes present, pixels)
            probability = picture[present][:, valid]
            error = torch.where(is_class, 1 - probability, probability)
            total = total + (error * _lovasz_gradient(error.detach(), is_class)).sum(1).mean()
            pictures += 1
    return total, total.new_tensor(float(pictures))


def _lovasz_gradient(error: Tensor, is_class: Tensor) -> Tensor:
    """Gradient (K, P) of the extension: by how much 1 - IoU grows when a pixel joins those of larger error.

    The extension is linear as long as the order of the errors stays, so its product with the errors is its value.
    """
    order = error.argsort(dim=1, descending=True, stable=True)
    hits = is_class.gather(1, order).cumsum(1)  # whole numbers: exact, and repeatable on CUDA
    size = hits[:, -1:]
    rank = torch.arange(1, error.shape[1] + 1, device=error.device)
    jaccard = 1 - (size - hits).to(error.dtype) / (size + rank - hits)
    steps = torch.diff(jaccard, dim=1, prepend=jaccard.new_zeros(len(jaccard), 1))
    return torch.empty_like(error).scatter_(1, order, steps)


def _surprise(logits: Tensor, labels: Tensor) -> Tensor:
    """(N, H, W) minus the logarithm of the right class's probability; 0 where the label is 255.

    Without reduction, since the sums of torch's own are not repeatable on CUDA.
    """
    return F.cross_entropy(logits, labels, reduction="none", ignore_index=IGNORE)
