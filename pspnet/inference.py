"""Labels from several views of a picture: sliding windows, scales and mirror images, over any runner and without torch.

The rules are those of hszhao/semseg's tool/test.py: probabilities, not logits, are averaged; windows overlap by a third
of their side; the picture at each scale is as large as that scale says, borders are padded with the mean; probabilities
of a scale are resized to the labels' size before scales are averaged. Pictures enter the network as uint8, as they do
everywhere here.

Probabilities of a whole picture (159 MB at 19 x 1024 x 2048) never exist. The logits of all views are kept at the
head's resolution, 1/64 of that at output stride 8, and the labels are made from them in bands of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pspnet.errors import PspnetError
from pspnet.spec import IGNORE, size_from_text
from pspnet.views import Network, Whole, Windows

MODES = ("whole", "slide")
STRIDE = 2 / 3  # of a window's side, semseg's stride_rate
LARGEST_SCALE = 8.0
BAND_BYTES = 32 << 20  # of one float32 array of probabilities; a few of them exist at a time


@dataclass(frozen=True)
class Mode:
    """How a picture becomes labels.

    kind: whole (the picture, fitted to the network's input; a scale enlarges that input) or slide (windows of the
    network's input size over the picture at its own size, times the scale). flip: the mirrored input counts as much as
    the input. crop: (height, width) of the windows, None for the network's own. stride: from window to window, as a
    share of the side.
    """

    kind: str = "whole"
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    crop: tuple[int, int] | None = None
    stride: float = STRIDE

    def __post_init__(self) -> None:
        if self.kind not in MODES:
            raise PspnetError(f"unknown mode {self.kind!r}: choose one of {', '.join(MODES)} with --mode")
        if not self.scales or not all(0 < scale <= LARGEST_SCALE for scale in self.scales):
            raise PspnetError(
                f"scales are {self.scales}: give numbers above 0 and up to {LARGEST_SCALE:g} with commas, for example "
                "--scales 0.5,1,1.5"
            )
        if len(set(self.scales)) != len(self.scales):
            raise PspnetError(f"scales are {self.scales}: each may be there once. Correct --scales")
        if not 0 < self.stride <= 1:
            raise PspnetError(
                f"stride is {self.stride:g}: it is a share of the window, above 0 and up to 1, in --stride"
            )
        if self.kind == "whole" and (self.crop or self.stride != STRIDE):
            raise PspnetError("--crop and --stride are for windows: add --mode slide")

    @property
    def plain(self) -> bool:
        """Whether one run of the network on the whole picture is all there is."""
        return self == Mode()

    def text(self) -> str:
        """The mode in words, for people: "whole image, single scale"."""
        kind = "whole image" if self.kind == "whole" else f"sliding window, stride {self.stride:.3g}"
        scales = ", ".join(f"{scale:g}" for scale in self.scales)
        several = f"scales {scales}" if len(self.scales) > 1 else f"scale {scales}"
        return f"{kind}, {'single scale' if self.scales == (1.0,) else several}{', flip' if self.flip else ''}"

    def facts(self, network_size: tuple[int, int]) -> dict[str, Any]:
        """The mode for a protocol; network_size: (height, width) that the network has without a crop."""
        window = {"crop": list(self.crop or network_size), "stride": self.stride} if self.kind == "slide" else {}
        return {"kind": self.kind, **window, "scales": list(self.scales), "flip": self.flip}


def mode_from_text(
    kind: str, scales: str = "1", flip: bool = False, crop: str | None = None, stride: float | None = None
) -> Mode:
    """The mode of the command line: scales with commas, crop as "HxW", None for the defaults."""
    try:
        values = tuple(float(part) for part in scales.split(","))
    except ValueError:
        raise PspnetError(f"scales are {scales!r}: write numbers with commas, for example --scales 0.5,1,1.5") from None
    size = size_from_text(crop) if crop else None
    if kind == "whole" and stride is not None:
        raise PspnetError("--stride is for windows: add --mode slide")
    return Mode(kind, values, flip, size, STRIDE if stride is None else stride)


class Inference:
    """Pictures to labels in one mode. names: of the label maps, one for each scale and, of several, "combined"."""

    def __init__(self, network: Network, mode: Mode, fit: str | None = None) -> None:
        if network.gives != "logits":
            raise PspnetError(
                "this network gives labels, not logits, and labels cannot be averaged: leave out --mode slide, "
                "--scales and --flip"
            )
        if mode.kind == "slide" and fit:
            raise PspnetError("windows are never fitted: leave out --fit, or use --mode whole")
        self.mode, self._fit = mode, fit or network.spec.fit
        size = mode.crop or network.spec.input_size
        sizes = [_scaled(size, scale if mode.kind == "whole" else 1.0) for scale in mode.scales]
        self._networks = [network.at_size(each) for each in sizes]
        self.names = tuple(f"{scale:g}" for scale in mode.scales) + (("combined",) if len(mode.scales) > 1 else ())

    def labels(self, image: np.ndarray) -> list[np.ndarray]:
        """Labels (H, W) uint8, 255 where the network did not look, for each of `names`; image (H, W, 3) uint8 BGR."""
        views: list[Whole | Windows] = []
        for scale, network in zip(self.mode.scales, self._networks, strict=True):
            if self.mode.kind == "whole":
                views.append(Whole(network, image, self._fit, self.mode.flip))
            else:
                views.append(Windows(network, image, scale, self.mode.stride, self.mode.flip))
        return _labels_from_views(views, (image.shape[0], image.shape[1]))


def _labels_from_views(views: Sequence[Whole | Windows], size: tuple[int, int]) -> list[np.ndarray]:
    """Labels of each view and, of several, of the mean over all views that saw a pixel."""
    out = [np.empty(size, np.uint8) for _ in range(len(views) + (len(views) > 1))]
    band = max(BAND_BYTES // (4 * max(view.row_values for view in views)), 1)
    for start in range(0, size[0], band):
        stop = min(start + band, size[0])
        total: np.ndarray | None = None
        seen_by_any = np.zeros((stop - start, size[1]), bool)
        for view, labels in zip(views, out, strict=False):
            values, seen = view.probabilities(start, stop), view.seen(start, stop)
            labels[start:stop] = np.where(seen, _arg_max(values), IGNORE)
            if len(views) > 1:
                values *= seen
                total = values if total is None else np.add(total, values, out=total)
                seen_by_any |= seen
        if total is not None:
            out[-1][start:stop] = np.where(seen_by_any, _arg_max(total), IGNORE)
    return out


def _arg_max(values: np.ndarray) -> np.ndarray:
    """(H, W) uint8: the first class of the largest value of (C, H, W); numpy's argmax is slow along the first axis."""
    best, labels = values[0].copy(), np.zeros(values.shape[1:], np.uint8)
    for index, plane in enumerate(values[1:], 1):
        better = plane > best
        np.copyto(best, plane, where=better)
        np.copyto(labels, np.uint8(index), where=better)
    return labels


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)
