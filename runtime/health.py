"""Whether a camera's picture and its labels can be what a driving camera shows: five conditions with hysteresis.

    dark          hardly anything in the picture is brighter than black
    over_exposed  most of the picture is saturated
    covered       almost nowhere any detail, and neither dark nor saturated: mud, a hand, a cap that lets light through
    single_class  all that the network labels is one class
    drift         the shares of the classes have moved far from what they were over the last minutes

A condition begins when its value has been above its limit for a while, and ends when the value has stayed below a lower
limit for longer. The drift's baseline learns only from pictures without another condition, and follows slowly, so that
a new landscape is normal again after a few minutes. Every value comes from a grid of samples, not from whole pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from pspnet.spec import IGNORE
from runtime.frame import Frame

SAMPLED_ROWS = 96
LABEL_ROWS = 120
BLOCK = 8  # samples on a side of the blocks in which detail is looked for
FEWEST_LABELLED = 0.02  # share of the picture; with fewer labelled pixels shares say nothing

BLACK, WHITE = {False: 0.0, True: 16.0}, {False: 255.0, True: 235.0}
"""Luma of black and white, by whether the range is limited."""

DARK_LEVEL = 24.0  # grey levels above black
SATURATED_LEVEL = 5.0  # grey levels below white
FLAT_LEVELS = 3.0  # standard deviation in a block without detail: a sensor's noise is below

FAST_S, SLOW_S = 2.0, 120.0
LEARN_S = 20.0  # before there is a baseline


@dataclass(frozen=True)
class Condition:
    """When a condition begins and ends: limits of its value, and for how long it must be past them, in seconds."""

    above: float
    below: float
    begin_s: float = 1.0
    end_s: float = 2.0


CONDITIONS = {
    "dark": Condition(above=0.98, below=0.95),
    "over_exposed": Condition(above=0.6, below=0.5),
    "covered": Condition(above=0.97, below=0.9),
    "single_class": Condition(above=0.985, below=0.95),
    "drift": Condition(above=0.5, below=0.35, begin_s=3.0, end_s=3.0),
}
"""Value of each, 0 to 1: share of dark samples, of saturated samples, of blocks without detail, of the largest class
among the labelled pixels, and half the sum of the differences of class shares (total variation)."""


class HealthWatch:
    """Told every result of one camera, knows which conditions hold; `values` are the last ones."""

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._states = {name: _Hysteresis(condition) for name, condition in CONDITIONS.items()}
        self._drift = _Drift(classes)
        self.values: dict[str, float] = {}

    def see(self, frame: Frame, labels: np.ndarray) -> tuple[str, ...]:
        """The conditions that hold now, in the order of CONDITIONS. labels: (H, W) uint8 of the frame, not merged."""
        values = picture_values(frame)
        shares = class_shares(labels, self._classes)
        if shares is not None:
            values["single_class"] = float(shares.max())
            sound = not any(self._states[name].holds for name in ("dark", "over_exposed", "covered", "single_class"))
            values["drift"] = self._drift.see(shares, frame.captured_ns, sound)
        self.values = values
        return tuple(
            name for name, state in self._states.items() if state.see(values.get(name, 0.0), frame.captured_ns)
        )


def picture_values(frame: Frame) -> dict[str, float]:
    """Shares of dark samples, of saturated samples and of blocks without detail of a picture in any format."""
    luma, limited = _luma(frame)
    step = max(luma.shape[0] // SAMPLED_ROWS, 1)
    samples = np.ascontiguousarray(luma[::step, ::step])
    dark = int(np.count_nonzero(samples <= BLACK[limited] + DARK_LEVEL)) / samples.size
    saturated = int(np.count_nonzero(samples >= WHITE[limited] - SATURATED_LEVEL)) / samples.size
    flat = 0.0 if max(dark, saturated) > 0.5 else _flat_share(samples)
    return {"dark": dark, "over_exposed": saturated, "covered": flat}


def class_shares(labels: np.ndarray, classes: int) -> np.ndarray | None:
    """(classes,) float64: shares among the labelled pixels of a sample of them; None where next to none is labelled."""
    step = max(labels.shape[0] // LABEL_ROWS, 1)
    samples = np.ascontiguousarray(labels[::step, ::step])
    counts = cv2.calcHist([samples], [0], None, [IGNORE + 1], [0, IGNORE + 1]).ravel()[:classes].astype(np.float64)
    labelled = counts.sum()
    return counts / labelled if labelled > FEWEST_LABELLED * samples.size else None


def _flat_share(samples: np.ndarray) -> float:
    """Share of the blocks whose samples differ no more than a sensor's noise makes them."""
    rows, columns = samples.shape[0] // BLOCK, samples.shape[1] // BLOCK
    if not rows or not columns:
        return 0.0
    values = samples[: rows * BLOCK, : columns * BLOCK].astype(np.float32)
    blocks = (columns, rows)
    mean = cv2.resize(values, blocks, interpolation=cv2.INTER_AREA)
    square = cv2.resize(values * values, blocks, interpolation=cv2.INTER_AREA)
    return float(np.count_nonzero(square - mean * mean < FLAT_LEVELS**2) / mean.size)


def _luma(frame: Frame) -> tuple[np.ndarray, bool]:
    """(H, W) uint8 brightness, as a view: Y, or green where there is none; and whether its range is limited."""
    image, layout = frame.image, frame.format
    if layout == "nv12":
        return image[: frame.size[0]], not frame.full_range
    if layout in ("yuyv", "uyvy"):
        return image[:, :, 0 if layout == "yuyv" else 1], not frame.full_range
    return (image if layout == "grey" else image[:, :, 1]), False


class _Hysteresis:
    """One condition over time."""

    def __init__(self, condition: Condition) -> None:
        self._condition = condition
        self.holds = False
        self._since_ns: int | None = None

    def see(self, value: float, now_ns: int) -> bool:
        condition = self._condition
        leaving = value < condition.below if self.holds else value > condition.above
        if not leaving:
            self._since_ns = None
            return self.holds
        if self._since_ns is None:
            self._since_ns = now_ns
        needed_s = condition.end_s if self.holds else condition.begin_s
        if now_ns - self._since_ns >= needed_s * 1e9:
            self.holds, self._since_ns = not self.holds, None
        return self.holds


class _Drift:
    """Distance between the class shares of the last seconds and those of the last minutes."""

    def __init__(self, classes: int) -> None:
        self._fast, self._slow = np.zeros(classes), np.zeros(classes)
        self._seen_s = 0.0
        self._last_ns: int | None = None

    def see(self, shares: np.ndarray, now_ns: int, sound: bool) -> float:
        """Half the sum of the differences, 0 to 1; 0 until there is a baseline. sound: whether the baseline learns."""
        if self._last_ns is None:
            self._fast[:], self._slow[:] = shares, shares
            self._last_ns = now_ns
        passed_s = min(max((now_ns - self._last_ns) / 1e9, 0.0), FAST_S)  # a gap is no time in which anything was seen
        self._last_ns = now_ns
        self._fast += (shares - self._fast) * (1 - np.exp(-passed_s / FAST_S))
        if sound:
            self._seen_s += passed_s
            # At first the mean of all, then the latest minutes.
            horizon_s = min(max(self._seen_s, passed_s), SLOW_S)
            self._slow += (shares - self._slow) * (1 - np.exp(-passed_s / horizon_s) if passed_s else 0.0)
        return float(np.abs(self._fast - self._slow).sum() / 2) if self._seen_s >= LEARN_S else 0.0
