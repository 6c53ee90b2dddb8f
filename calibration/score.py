"""How much of the float network an INT8 one keeps, on held-out pictures: the figure that chooses and gates."""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from tqdm import tqdm

from calibration.held_out import HeldOut, held_out_pictures
from pspnet.errors import PspnetError
from pspnet.metadata import read_model, spec_from_model
from pspnet.metrics import ConfusionMatrix
from pspnet.spec import IGNORE
from pspnet.views import check_finite
from runtime.labels import from_logits_at_camera
from runtime.runner import Runner, open_runner

MIOU, AGREEMENT = "mIoU", "agreement with FP32"
RESAMPLES = 1000


@dataclass(frozen=True)
class Score:
    """All in percent but the decibels.

    miou: None without labels. agreement: share of pixels with the float network's label. per_class: IoU of each class
    with the labels, or without them with the float network's; NaN for a class that neither holds. sqnr_db: of the
    logits, 10 log10 of the float network's power over that of the difference; infinite where there is none. counts:
    (pictures, classes, classes + 1), each picture's confusion matrix.
    """

    miou: float | None
    agreement: float
    per_class: dict[str, float]
    sqnr_db: float
    counts: np.ndarray = field(repr=False, compare=False)

    @property
    def value(self) -> float:
        """The figure that decides: mIoU, or without labels the agreement."""
        return self.agreement if self.miou is None else self.miou


class Judge:
    """Scores variants of one float network on held-out pictures, against labels or against that network.

    baseline: the float network's own score. figure: MIOU, or without labels AGREEMENT, as every figure must say.
    """

    def __init__(
        self, model: str | Path | onnx.ModelProto, pictures: HeldOut, engine: str = "auto", threads: int | None = None,
        quiet: bool = False,
    ) -> None:  # fmt: skip
        """engine, threads: as of `open_runner`, for every network that is scored. quiet: no progress bar."""
        loaded = model if isinstance(model, onnx.ModelProto) else read_model(model)
        self.spec = spec_from_model(loaded)
        self.pictures, self.figure = pictures, MIOU if pictures.targets else AGREEMENT
        self.engine, self.threads, self._quiet = engine, threads, quiet
        self._float = [(logits.copy(), labels) for logits, labels in self._run(model, "float network")]
        self.baseline = self._float_score()

    def score(self, model: str | Path | onnx.ModelProto, title: str | None = "score") -> Score:
        """The score of a variant with the same input, in float or with Q/DQ; title: of the bar, None for none."""
        return self._scored(self._run(model, title))

    def score_runner(self, runner: Runner, title: str | None = "score") -> Score:
        """The score of a variant that is open already, on whatever engine."""
        return self._scored(self._results(runner, title))

    def loss(self, score: Score) -> float:
        """Points of the figure that a variant loses against the float network; negative where it gains."""
        return self.baseline.value - score.value

    def loss_interval(self, score: Score) -> tuple[float, float]:
        """Between which points 95 % of the losses lie when the pictures are drawn anew from themselves (bootstrap)."""
        pictures = len(score.counts)
        drawn = np.random.default_rng(0).multinomial(pictures, [1 / pictures] * pictures, RESAMPLES)
        values = [
            _values(np.tensordot(drawn, counts, 1), self.figure) for counts in (self.baseline.counts, score.counts)
        ]
        low, high = np.nanpercentile(values[0] - values[1], [2.5, 97.5])
        return float(low), float(high)

    def class_losses(self, score: Score) -> dict[str, float]:
        """Points of IoU that a variant loses for each class which the pictures hold."""
        lost = {name: iou - score.per_class[name] for name, iou in self.baseline.per_class.items()}
        return {name: value for name, value in lost.items() if not math.isnan(value)}

    def subset(self, count: int) -> Judge:
        """A judge on `count` of the pictures, evenly spread; the judge itself where it has no more."""
        if count >= len(self.pictures):
            return self
        return self.part(self.pictures.subset(count)[1])

    def part(self, chosen: Sequence[int]) -> Judge:
        """A judge on the pictures of these indices; PspnetError where no pixel of them has a class."""
        fewer = copy.copy(self)
        fewer.pictures = self.pictures.part(chosen)
        fewer._float = [self._float[index] for index in chosen]
        fewer.baseline = fewer._float_score()
        return fewer

    def facts(self) -> dict[str, Any]:
        """What a figure of this judge must state."""
        return {
            "figure": self.figure, "source": self.pictures.source, "images": len(self.pictures),
            "engine": self.engine, "float": self.baseline.value,
        }  # fmt: skip

    def _run(self, model: str | Path | onnx.ModelProto, title: str | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Logits (C, h, w), valid until the next, and labels (H, W) of each picture: the runners' own way."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "variant.onnx")
            if isinstance(model, onnx.ModelProto):
                onnx.save(model, path)
            with open_runner(path if path.exists() else model, self.engine, self.threads) as runner:  # type: ignore[arg-type]
                self.engine = runner.engine
                yield from self._results(runner, title)

    def _results(self, runner: Runner, title: str | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        hidden = self._quiet or title is None
        # Closed here: a bar that the garbage collector closes can swallow a Ctrl-C.
        with tqdm(self.pictures.inputs, desc=title, unit="image", leave=False, disable=hidden) as bar:
            for image, geometry in zip(bar, self.pictures.geometries, strict=True):
                logits = runner.infer(image)
                check_finite(logits, runner)
                yield logits[0], from_logits_at_camera(logits[0], geometry, self.spec.align_corners)

    def _float_score(self) -> Score:
        score = self._scored(iter(self._float))
        if math.isnan(score.value):
            raise PspnetError(f"no pixel of the held-out pictures of {self.pictures.source} has a class: choose others")
        return score

    def _scored(self, results: Iterator[tuple[np.ndarray, np.ndarray]]) -> Score:
        counts, same, seen, signal, noise = [], 0, 0, 0.0, 0.0
        targets = self.pictures.targets or [labels for _, labels in self._float]
        for (logits, labels), (exact, reference), target in zip(results, self._float, targets, strict=True):
            matrix = ConfusionMatrix(self.spec.classes)
            matrix.add(target, labels)
            counts.append(matrix.counts)
            looked_at = reference != IGNORE
            same, seen = same + int((labels == reference)[looked_at].sum()), seen + int(looked_at.sum())
            signal += float(np.square(exact, dtype=np.float64).sum())
            noise += float(np.square(np.subtract(logits, exact, dtype=np.float64)).sum())
        matrix.counts = np.sum(counts, 0)
        scores = matrix.scores(self.spec.class_names)
        return Score(
            scores["miou"] if self.pictures.targets else None,
            100 * same / max(seen, 1),
            {name: row["iou"] for name, row in scores["per_class"].items()},
            sqnr_db(signal, noise),
            np.stack(counts),
        )


def judge_from_data(
    model: str | Path | onnx.ModelProto, data: str | Path, dataset: str, split: str | None, exclude: Mapping[str, str],
    count: int, engine: str = "auto", threads: int | None = None, quiet: bool = False,
) -> Judge:  # fmt: skip
    """A judge of the float network `model` on up to `count` pictures of `data`; see `held_out_pictures` and `Judge`."""
    loaded = model if isinstance(model, onnx.ModelProto) else read_model(model)
    pictures = held_out_pictures(data, dataset, split, exclude, count, spec_from_model(loaded))
    return Judge(loaded, pictures, engine, threads, quiet)


def sqnr_db(signal: float, noise: float) -> float:
    """Signal to quantisation noise ratio in decibels of two powers; infinite without noise."""
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def _values(counts: np.ndarray, figure: str) -> np.ndarray:
    """The figure of each of (R, classes, classes + 1) confusion matrices, in percent."""
    correct, labelled = np.diagonal(counts, axis1=1, axis2=2).astype(np.float64), counts.sum(2)
    if figure == AGREEMENT:
        return 100 * correct.sum(1) / labelled.sum(1)
    with np.errstate(invalid="ignore"):
        return 100 * np.nanmean(correct / (labelled + counts[:, :, :-1].sum(1) - correct), 1)
