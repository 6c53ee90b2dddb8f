"""Two artefacts on the same pictures: how far their labels agree, what each scores, and where they differ. No torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from export.agreement import Agreement, percent
from pspnet.dataset import Dataset, open_dataset
from pspnet.errors import PspnetError
from pspnet.evaluate import check_classes
from pspnet.files import sha256_of
from pspnet.image import write_image
from pspnet.metadata import extra, read_model
from pspnet.metrics import ConfusionMatrix
from runtime.runner import ClosingRunner, Runner
from runtime.segmenter import CpuSegmenter
from runtime.source import open_source

Pair = tuple[np.ndarray, np.ndarray | None]
"""A picture (H, W, 3) uint8 BGR and its labels (H, W) uint8, or None where there are none."""


@dataclass(frozen=True)
class Limits:
    """max_miou_drop: points of mIoU that B may lose against A. min_agreement: per cent of pixels. None: no limit."""

    max_miou_drop: float | None = None
    min_agreement: float | None = None

    def __post_init__(self) -> None:
        if self.max_miou_drop is not None and not 0 <= self.max_miou_drop <= 100:
            raise PspnetError(f"max-miou-drop is {self.max_miou_drop:g}: give points of mIoU from 0 to 100")
        if self.min_agreement is not None and not 0 < self.min_agreement <= 100:
            raise PspnetError(f"min-agreement is {self.min_agreement:g}: give per cent above 0 and up to 100")

    def missed(self, report: dict[str, Any]) -> list[str]:
        """One line for each limit that the report does not keep; a figure that is no number keeps none."""
        lines = []
        agreement, drop = 100 * report["agreement"]["overall"], report["miou_drop"]
        if self.min_agreement is not None and not agreement >= self.min_agreement:
            lines.append(f"agreement is {agreement:.4f} %, the limit is {self.min_agreement:g} %")
        if self.max_miou_drop is not None and not drop <= self.max_miou_drop:
            lines.append(f"mIoU drops by {drop:.3f} points, the limit is {self.max_miou_drop:g}")
        return lines


class Pictures:
    """What two artefacts are compared on: the pairs of a data set, or the pictures of a folder or frames of a clip."""

    def __init__(self, data: str | Path, dataset: str, split: str) -> None:
        self.pairs: Dataset | None = None
        if (Path(data) / "classes.json").is_file():
            self.pairs = open_dataset(dataset, data, split)
        elif not Path(data).exists():
            raise PspnetError(f"{data} does not exist: give a data set, a folder of pictures or a clip with --data")
        self.name = f"{Path(data).name} {split}" if self.pairs else f"{Path(data).name} (without labels)"
        self._data = data

    def __iter__(self) -> Iterator[Pair]:
        if self.pairs:
            yield from map(self.pairs.read, range(len(self.pairs)))
            return
        with open_source(str(self._data)) as source:
            yield from ((frame.bgr(), None) for frame in source)


def verify(
    runners: tuple[Runner, Runner], paths: tuple[Path, Path], pictures: Pictures, fit: str | None, heat_map: str | Path
) -> dict[str, Any]:
    """The report of B, the second runner, against A; writes the flip heat map, a PNG, to `heat_map`.

    Labels are compared at the pictures' own size. "logits_error" is B's largest difference from A's logits over A's
    largest magnitude, None where the two do not give logits of one shape.
    """
    specs = [runner.spec for runner in runners]
    if specs[0].class_names != specs[1].class_names:
        raise PspnetError(
            f"{paths[0]} knows the classes {', '.join(specs[0].class_names)}; {paths[1]} knows "
            f"{', '.join(specs[1].class_names)}: only artefacts of the same classes in the same order can be compared"
        )
    if pictures.pairs:
        check_classes(specs[0], pictures.pairs)
    keeping = [KeepingRunner(runner) for runner in runners]
    segmenters = [CpuSegmenter(runner, fit) for runner in keeping]
    agreement, matrices = Agreement(specs[0].class_names), [ConfusionMatrix(specs[0].classes) for _ in runners]
    flips, logits_error, count = FlipMap(), 0.0, 0
    for picture, target in tqdm(pictures, desc="verify", unit="image", leave=False):
        labels = [segmenter.labels(picture) for segmenter in segmenters]
        flips.add(picture, agreement.add(*labels))
        logits_error = max(logits_error, _logits_error(keeping))
        if target is not None:
            for matrix, found in zip(matrices, labels, strict=True):
                matrix.add(target, found)
        count += 1
    if not count:
        raise PspnetError(f"{pictures.name} holds no picture: give a data set, a folder of pictures or a clip")
    flips.write(heat_map)
    scores = [matrix.scores(specs[0].class_names) if pictures.pairs else None for matrix in matrices]
    mious = [score["miou"] if score else math.nan for score in scores]
    return {
        "kind": "verify", "data": pictures.name, "images": count, "labelled": bool(pictures.pairs),
        "artefacts": [_facts(*each) for each in zip(paths, runners, segmenters, scores, strict=True)],
        "miou_drop": mious[0] - mious[1], "agreement": agreement.figures(),
        "logits_error": None if math.isinf(logits_error) else logits_error, "heat_map": str(heat_map),
    }  # fmt: skip


class KeepingRunner(ClosingRunner):
    """A runner whose last output can be looked at once more."""

    def __init__(self, runner: Runner) -> None:
        self.spec, self.engine, self.precision, self.gives = runner.spec, runner.engine, runner.precision, runner.gives
        self.last = np.zeros(0, np.float32)
        self._runner = runner

    def infer(self, images: np.ndarray) -> np.ndarray:
        """As the runner's own."""
        self.last = self._runner.infer(images)
        return self.last


class FlipMap:
    """How often each place of the picture gets another label, over all pictures, in the first picture's size."""

    def __init__(self) -> None:
        self.count = 0
        self._sum: np.ndarray
        self._mean: np.ndarray

    def add(self, picture: np.ndarray, flips: np.ndarray) -> None:
        """picture (H, W, 3) uint8 BGR; flips (H, W) bool."""
        if not self.count:
            self._sum, self._mean = (np.zeros(flips.shape, np.float32) for _ in range(2))
        height, width = self._sum.shape
        sized = [
            cv2.resize(values.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
            for values in (flips, cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY))
        ]
        self._sum += sized[0]
        self._mean += sized[1]
        self.count += 1

    def write(self, path: str | Path) -> None:
        """PNG: the mean picture in grey; where labels flip, from dark red to white at the most frequent place."""
        share = self._sum / self.count
        most = float(share.max())
        heat = np.sqrt(share / most) if most else share  # the square root keeps single flips visible
        colours = cv2.applyColorMap((255 * heat).astype(np.uint8), cv2.COLORMAP_HOT).astype(np.float32)
        grey = cv2.cvtColor(self._mean / self.count * 0.6, cv2.COLOR_GRAY2BGR)
        drawn = np.where(share[..., None] > 0, np.maximum(colours, 64), grey).astype(np.uint8)
        strip = np.full((28, drawn.shape[1], 3), 24, np.uint8)
        text = f"other label: {100 * float(share.mean()):.3f} % of pixels; most: {100 * most:.0f} % of {self.count}"
        cv2.putText(strip, text, (6, 19), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (235, 235, 235), 1, cv2.LINE_AA)
        write_image(path, np.concatenate([drawn, strip]))


def text_of(report: dict[str, Any]) -> str:
    """The report as lines to print."""
    agreement = report["agreement"]
    lines = [
        f"{letter}  {a['artefact']} ({a['engine']}, {a['precision']})"
        + (f"  mIoU {a['scores']['miou']:.3f}" if a["scores"] else "")
        + (f"  {a['nodes']} nodes" if "nodes" in a else "")
        for letter, a in zip("AB", report["artefacts"], strict=True)
    ]
    lines.append(
        f"{report['images']} images of {report['data']}: {100 * agreement['overall']:.4f} % of {agreement['pixels']} "
        f"pixels agree, {percent(agreement['boundary_band'])} % within {agreement['band_px']} pixels of an edge"
    )
    if report["logits_error"] is not None:
        lines.append(f"logits differ by {report['logits_error']:.2e} of the largest")
    if report["labelled"]:
        lines.append(f"mIoU drop from A to B: {report['miou_drop']:.3f} points")
    lines += [f"{name:>16}  {percent(share):>8} %" for name, share in agreement["per_class"].items()]
    return "\n".join(lines)


def _logits_error(runners: list[KeepingRunner]) -> float:
    """Of the last outputs: the largest difference over A's largest magnitude; infinite where they do not compare."""
    a, b = runners[0].last, runners[1].last
    if any(runner.gives != "logits" for runner in runners) or a.shape != b.shape:
        return math.inf
    return float(np.abs(b - a).max() / np.abs(a).max())


def _facts(path: Path, runner: Runner, segmenter: CpuSegmenter, scores: dict[str, Any] | None) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "artefact": path.name, "sha256": sha256_of(path), "engine": runner.engine, "precision": runner.precision,
        "network_size": list(runner.spec.input_size), "fit": segmenter.fit, "scores": scores,
    }  # fmt: skip
    if path.suffix == ".onnx":
        model = read_model(path)
        facts["nodes"] = len(model.graph.node)
        facts["ops"] = dict(Counter(node.op_type for node in model.graph.node).most_common())
        facts["proof"] = extra(model, "proof")
    return facts
