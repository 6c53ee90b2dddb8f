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
from pspnet.dataset import Dataset, check_no_choice, is_dataset, open_dataset
from pspnet.errors import PspnetError
from pspnet.evaluate import check_classes
from pspnet.files import sha256_of
from pspnet.image import write_image
from pspnet.metadata import artefact_sha256, extra, read_model
from pspnet.metrics import ConfusionMatrix
from pspnet.wording import counted
from runtime.runner import ClosingRunner, Runner
from runtime.segmenter import CpuSegmenter
from runtime.source import open_source

BACKGROUND = 24  # grey level of the strip below a heat map

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
        if self.min_agreement is not None and not 1 < self.min_agreement <= 100:  # 0.99 was meant to be 99
            raise PspnetError(f"min-agreement is {self.min_agreement:g}: give per cent above 1 and up to 100")

    def missed(self, report: dict[str, Any]) -> list[str]:
        """One line for each limit that the report does not keep; a figure that is no number keeps none."""
        lines = []
        pixels, flips, drop = report["agreement"]["pixels"], report["agreement"]["flips"], report["miou_drop"]
        agreement = 100 * (pixels - flips) / pixels  # divided last, so that 57 of 100 keep a limit of 57
        if self.min_agreement is not None and not agreement >= self.min_agreement:
            lines.append(
                f"agreement is {percent(report['agreement']['overall'])} % ({flips} of {pixels} pixels differ), "
                f"the limit is {self.min_agreement:.10g} %"
            )
        if self.max_miou_drop is not None and not drop <= self.max_miou_drop:
            lines.append(f"mIoU drops by {drop:.6g} points, the limit is {self.max_miou_drop:.10g}")
        return lines


class Pictures:
    """What two artefacts are compared on: the pairs of a data set, or the pictures of a folder or frames of a clip.

    hashes: SHA-256 of every file that has been read so far, by its place in `data`.
    """

    def __init__(self, data: str | Path, dataset: str, split: str | None) -> None:
        self.hashes: dict[str, str] = {}
        self.pairs: Dataset | None = None
        self._data = Path(data)
        if is_dataset(self._data):
            self.pairs = open_dataset(dataset, data, split or "val")
            self._length: int | None = len(self.pairs)
        elif not self._data.exists():
            raise PspnetError(f"{data} does not exist: give a data set, a folder of pictures or a clip with --data")
        else:
            check_no_choice(data, dataset, split)
            self._source = open_source(str(data))
            self._length = self._source.length

    def __iter__(self) -> Iterator[Pair]:
        return iter(tqdm(self._pairs(), desc="verify", unit="image", total=self._length, leave=False))

    def protocol(self) -> dict[str, Any]:
        """What figures must state: folder or clip, data set and split, None without labels; and the files read."""
        name, split = (self.pairs.name, self.pairs.split) if self.pairs else (None, None)
        return {"data": self._data.resolve().name, "dataset": name, "split": split, "files": self.hashes}

    def _pairs(self) -> Iterator[Pair]:
        if self.pairs:
            for index, path in enumerate(self.pairs.images):
                yield self.pairs.read(index)
                self._note(path)
            return
        for frame in self._source:
            yield frame.bgr(), None
            self._note(frame.path or self._data)

    def _note(self, path: Path) -> None:
        root = self.pairs.root if self.pairs else self._data
        name = path.relative_to(root).as_posix() if path != root and path.is_relative_to(root) else path.name
        if name not in self.hashes:
            self.hashes[name] = sha256_of(path)


def verify(
    runners: tuple[Runner, Runner], paths: tuple[Path, Path], pictures: Pictures, fit: str | None, heat_map: str | Path
) -> dict[str, Any]:
    """The report of B, the second runner, against A; writes the flip heat map, a PNG, to `heat_map`.

    Labels are compared at the pictures' own size; pixels that A gives no class are left out. "logits_error" is B's
    largest difference from A's logits over A's largest magnitude, None where the two cannot be compared. PspnetError
    where classes differ, where an artefact gives NaN, and where there is nothing to compare or to score.
    """
    _check_same_classes(runners, paths)
    names = runners[0].spec.class_names
    if pictures.pairs:
        check_classes(runners[0].spec, pictures.pairs)
    keeping = [KeepingRunner(runner) for runner in runners]
    segmenters = [CpuSegmenter(runner, fit) for runner in keeping]
    agreement, matrices = Agreement(names), [ConfusionMatrix(len(names)) for _ in runners]
    flips, logits_errors = FlipMap(), [0.0]
    for picture, target in pictures:
        labels = [segmenter.labels(picture) for segmenter in segmenters]
        flips.add(picture, agreement.add(*labels))
        logits_errors.append(_logits_error(segmenters, keeping))
        if target is not None:
            for matrix, found in zip(matrices, labels, strict=True):
                matrix.add(target, found)
    figures, protocol = agreement.figures(), pictures.protocol() | {"images": flips.count}
    if not figures["pixels"]:
        raise PspnetError(f"{paths[0]} gives no pixel of {protocol['data']} a class: there is nothing to compare")
    if pictures.pairs and not matrices[0].counts.any():
        raise PspnetError(
            f"no pixel of {protocol['data']} ({protocol['split']}) has a class: there is nothing to score"
        )
    flips.write(heat_map, f"{figures['flips']} of {figures['pixels']} pixels differ")
    scores = [matrix.scores(names) if pictures.pairs else None for matrix in matrices]
    mious = [score["miou"] if score else math.nan for score in scores]
    return {
        "kind": "verify", "protocol": protocol,
        "artefacts": [_facts(*each) for each in zip(paths, runners, segmenters, scores, strict=True)],
        "miou_drop": mious[0] - mious[1], "agreement": figures,
        "logits_error": max(logits_errors) if math.isfinite(max(logits_errors)) else None, "heat_map": str(heat_map),
    }  # fmt: skip


class KeepingRunner(ClosingRunner):
    """A runner whose last output can be looked at once more."""

    def __init__(self, runner: Runner) -> None:
        self.spec, self.engine, self.precision, self.gives = runner.spec, runner.engine, runner.precision, runner.gives
        self.name, self.last, self._runner = runner.name, np.zeros(0, np.float32), runner

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

    def write(self, path: str | Path, text: str) -> None:
        """PNG: the mean picture in grey; where labels flip, from dark red to white at the most frequent place.

        Below it a strip with `text` and the scale of the colours, if there are any. Nothing is scaled: a pixel of the
        map is one of the first picture.
        """
        share = self._sum / self.count
        most = float(share.max())
        grey = cv2.cvtColor((self._mean / self.count * 0.6).astype(np.uint8), cv2.COLOR_GRAY2BGR)
        drawn = np.where(share[..., None] > 0, _heat(share / most), grey) if most else grey
        parts: list[str | np.ndarray] = [f"{text};" if most else "no differences"]
        if most:
            scale = _heat(np.tile(np.linspace(0, 1, 100, dtype=np.float32), (12, 1)))
            parts += ["in 0 %", scale, f"{100 * most:.3g} % of {counted(self.count, 'image')}"]
        strip = _strip(parts, drawn.shape[1])
        canvas = np.full((len(drawn) + len(strip), strip.shape[1], 3), BACKGROUND, np.uint8)
        canvas[: len(drawn), : drawn.shape[1]], canvas[len(drawn) :] = drawn, strip
        write_image(path, canvas)


def _heat(share: np.ndarray) -> np.ndarray:
    """Colours (H, W, 3) uint8 BGR of shares 0..1: dark red, red, yellow, white."""
    # The square root and the start away from black keep single flips visible among many pictures.
    return cv2.applyColorMap((255 * (0.25 + 0.75 * np.sqrt(share))).astype(np.uint8), cv2.COLORMAP_HOT)


def _strip(parts: list[str | np.ndarray], width: int) -> np.ndarray:
    """Texts and pictures of 12 rows in one line, at least `width` pixels wide, (28, W, 3) uint8 BGR."""
    font: tuple[int, float] = (cv2.FONT_HERSHEY_SIMPLEX, 0.42)
    widths = [cv2.getTextSize(p, *font, 1)[0][0] if isinstance(p, str) else p.shape[1] for p in parts]
    strip = np.full((28, max(width, sum(widths) + 8 * len(parts) + 4), 3), BACKGROUND, np.uint8)
    left = 6
    for part, used in zip(parts, widths, strict=True):
        if isinstance(part, str):
            cv2.putText(strip, part, (left, 19), *font, (235, 235, 235), 1, cv2.LINE_AA)
        else:
            strip[9:21, left : left + used] = part
        left += used + 8
    return strip


def text_of(report: dict[str, Any]) -> str:
    """The report as lines to print."""
    agreement, protocol, artefacts = report["agreement"], report["protocol"], report["artefacts"]
    views = ["{}x{}, {}".format(*a["network_size"], a["fit"]) for a in artefacts]
    lines = [
        f"{letter}  {a['artefact']} ({a['engine']}, {a['precision']}; {view})"
        + (f"  mIoU {a['scores']['miou']:.3f}" if a["scores"] else "")
        + (f"  {a['nodes']} nodes" if "nodes" in a else "")
        for letter, a, view in zip("AB", artefacts, views, strict=True)
    ]
    if views[0] != views[1]:
        lines.append(f"A and B do not see the pictures alike: {views[0]} against {views[1]}")
    lines.append(
        f"{protocol['images']} images of {protocol['data']} ({protocol['split'] or 'without labels'}): "
        f"{percent(agreement['overall'])} % of {agreement['pixels']} pixels agree, {agreement['flips']} differ; "
        f"{percent(agreement['boundary_band'])} % agree within {agreement['band_px']} pixels of an edge"
    )
    if report["logits_error"] is not None:
        lines.append(f"logits differ by {report['logits_error']:.2e} of the largest")
    scores = [a["scores"] for a in artefacts]
    if all(scores):
        lines.append(f"mIoU drop from A to B: {report['miou_drop']:.3f} points")
    lines.append(f"{'class of A':>16}  {'agreement':>10}" + ("   IoU of A       of B" if all(scores) else ""))
    for name, share in agreement["per_class"].items():
        ious = "".join(f"  {score['per_class'][name]['iou']:9.3f}" for score in scores if score)
        lines.append(f"{name:>16}  {percent(share):>8} %{ious.replace('nan', '  -')}")
    return "\n".join(lines)


def _check_same_classes(runners: tuple[Runner, Runner], paths: tuple[Path, Path]) -> None:
    names = [runner.spec.class_names for runner in runners]
    if names[0] == names[1]:
        return
    index = next((i for i, (a, b) in enumerate(zip(*names, strict=False)) if a != b), min(map(len, names)))
    first = [each[index] if index < len(each) else "nothing" for each in names]
    raise PspnetError(
        f"{paths[0]} knows {len(names[0])} classes, {paths[1]} knows {len(names[1])}; class {index} is {first[0]} and "
        f"{first[1]}: give artefacts of the same classes in the same order"
    )


def _logits_error(segmenters: list[CpuSegmenter], runners: list[KeepingRunner]) -> float:
    """Of the last outputs: the largest difference over A's largest magnitude; infinite where they do not compare."""
    a, b = (runner.last for runner in runners)
    kinds = {getattr(runner.spec, "output_kind", "logits") for runner in runners}  # guests may give probabilities
    views = {(segmenter.spec.input_size, segmenter.fit) for segmenter in segmenters}
    if kinds != {"logits"} or len(views) > 1 or a.shape != b.shape:
        return math.inf
    return float(np.abs(b - a).max()) / max(float(np.abs(a).max()), float(np.finfo(np.float32).tiny))


def _facts(path: Path, runner: Runner, segmenter: CpuSegmenter, scores: dict[str, Any] | None) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "artefact": path.name, "sha256": artefact_sha256(path), "engine": runner.engine, "precision": runner.precision,
        "provenance": runner.provenance or None, "network_size": list(runner.spec.input_size), "fit": segmenter.fit,
        "scores": scores,
    }  # fmt: skip
    if path.suffix == ".onnx":
        model = read_model(path)
        facts["nodes"] = len(model.graph.node)
        facts["ops"] = dict(Counter(node.op_type for node in model.graph.node).most_common())
        facts["proof"] = extra(model, "proof")
    return facts
