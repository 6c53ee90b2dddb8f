"""What makes a training step on a CPU faster without changing what it computes."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

MALLOC_TRIM_THRESHOLD, MALLOC_MMAP_MAX = -1, -4
DEFAULT_TRIM_THRESHOLD, DEFAULT_MMAP_MAX = 128 * 1024, 65_536
"""Parameters of mallopt(3) and what glibc begins with."""


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Freed maps stay with the process; by default glibc returns each large one, and its pages are cleared again.

    A step frees and asks for the same gigabyte over and over. Afterwards free memory is returned and glibc's defaults
    hold again, but for its threshold between the two kinds of memory, which adapts itself no more in this process.
    Nothing happens where the C library is not glibc.
    """
    library = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    if library is None or not (hasattr(library, "mallopt") and hasattr(library, "malloc_trim")):
        yield
        return
    library.mallopt(MALLOC_MMAP_MAX, 0)
    library.mallopt(MALLOC_TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        library.mallopt(MALLOC_MMAP_MAX, DEFAULT_MMAP_MAX)
        library.mallopt(MALLOC_TRIM_THRESHOLD, DEFAULT_TRIM_THRESHOLD)
        library.malloc_trim(0)


def quick_depthwise(model: nn.Module) -> None:
    """Depthwise convolutions with a stride or a dilation are computed by ones without, while gradients are taken.

    oneDNN has fast kernels for the gradients of the latter only; in bfloat16 the others take many times as long
    (benchmarks/training_speed.py, variants plain-bf16 and bf16). The same products are summed, so results differ by
    rounding at most. Weights, their names and what `state_dict` holds stay as they are, and without gradients nothing
    changes. For maps (N, C, H, W) in channels_last, which the outputs have, too. It lasts until `plain_depthwise`.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and _can_be_rewritten(module):
            module.forward = functools.partial(_forward, module)  # type: ignore[method-assign]


def plain_depthwise(model: nn.Module) -> None:
    """Undo `quick_depthwise`."""
    for module in model.modules():
        replaced = vars(module).get("forward")
        if isinstance(replaced, functools.partial) and replaced.func is _forward:
            del module.forward


def _can_be_rewritten(conv: nn.Conv2d) -> bool:
    """Whether a convolution is depthwise, one number says its stride and dilation, and one of them is not 1."""
    own = type(conv).forward is nn.Conv2d.forward  # a subclass may compute something else
    depthwise = conv.groups == conv.in_channels == conv.out_channels > 1
    kernel, stride, dilation = conv.kernel_size, conv.stride[0], conv.dilation[0]
    square = conv.stride == (stride, stride) and conv.dilation == (dilation, dilation) and kernel[0] % 2 == 1
    same = square and conv.padding == tuple(dilation * (side // 2) for side in kernel) and kernel[0] == kernel[1]
    return own and depthwise and same and conv.padding_mode == "zeros" and (stride == 1) != (dilation == 1)


def _forward(conv: nn.Conv2d, maps: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return conv._conv_forward(maps, conv.weight, conv.bias)
    dilation, stride = conv.dilation[0], conv.stride[0]
    if dilation > 1:
        return _from_phases(_at_each_pixel(conv, _phases(maps, dilation)), dilation, maps.shape)
    channels_last = _at_each_pixel(conv, maps).permute(0, 2, 3, 1)
    return channels_last[:, ::stride, ::stride].contiguous().permute(0, 3, 1, 2)


def _at_each_pixel(conv: nn.Conv2d, maps: Tensor) -> Tensor:
    """The convolution with stride and dilation 1."""
    return functional.conv2d(maps, conv.weight, conv.bias, padding=conv.kernel_size[0] // 2, groups=conv.groups)


def _phases(maps: Tensor, step: int) -> Tensor:
    """(N, C, H, W) -> (N * step * step, C, ⌈H/step⌉, ⌈W/step⌉): every step-th row and column, from each start.

    Rows and columns that are missing in the last phases are zero, as the padding of the convolution is.
    """
    count, channels, height, width = maps.shape
    maps = functional.pad(maps, (0, -width % step, 0, -height % step))
    rows, columns = maps.shape[2] // step, maps.shape[3] // step
    split = maps.permute(0, 2, 3, 1).reshape(count, rows, step, columns, step, channels)
    return split.permute(0, 2, 4, 1, 3, 5).reshape(-1, rows, columns, channels).permute(0, 3, 1, 2)


def _from_phases(phases: Tensor, step: int, shape: torch.Size) -> Tensor:
    """The inverse of `_phases` for maps of `shape`."""
    count, channels, height, width = shape
    rows, columns = phases.shape[2:]
    split = phases.permute(0, 2, 3, 1).reshape(count, step, step, rows, columns, channels)
    joined = split.permute(0, 3, 1, 4, 2, 5).reshape(count, rows * step, columns * step, channels)
    return joined[:, :height, :width].contiguous().permute(0, 3, 1, 2)
