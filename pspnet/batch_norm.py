"""Networks without batch norm: in eval mode it is a scale and a shift, which the convolution before it can take on."""

from __future__ import annotations

import copy
import itertools
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Network = TypeVar("Network", bound=nn.Module)


def without_batch_norm(network: Network) -> Network:
    """A copy of a network or a part of one, in eval mode, with every batch norm folded, in the network's own type."""
    folded = copy.deepcopy(network).eval()
    for parent in folded.modules():
        children = list(parent.named_children())
        for (before, conv), (name, norm) in itertools.pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, before, fuse_conv_bn_eval(conv, norm))
                setattr(parent, name, nn.Identity())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    return folded
