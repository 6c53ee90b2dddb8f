"""An artefact scored in any mode, with its predictions and its worst pictures on disk, and under corruptions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pspnet.corruptions import SEVERITIES, STRENGTHS, corrupted
from pspnet.dataset import Dataset
from pspnet.evaluate import check_classes, confusion_of, scores_of
from pspnet.files import atomic_folder
from pspnet.inference import Inference, Mode
from pspnet.metrics import ConfusionMatrix
from pspnet.wording import counted
from runtime.frame import Frame, Segmentation
from runtime.runner import Runner
from runtime.segmenter import CpuSegmenter
from runtime.sink import FolderSink
from runtime.worst_pictures import WorstPictures

LabelMaps = Callable[[np.ndarray], list[np.ndarray]]
"""Picture (H, W, 3) uint8 BGR -> labels (H, W) uint8, one map for each name of a mode; the last is the mode's own."""


def label_maps(runner: Runner, mode: Mode, fit: str | None = None) -> tuple[tuple[str, ...], LabelMaps]:
    """The names of a mode's label maps (its scales, and "combined" of several) and the function that makes them."""
    if mode.plain:
        segmenter = CpuSegmenter(runner, fit)
        return ("1",), lambda image: [segmenter.labels(image)]
    inference = Inference(runner, mode, fit)
    return inference.names, inference.labels


def score(
    runner: Runner,
    dataset: Dataset,
    mode: Mode,
    fit: str | None = None,
    save: str | Path | None = None,
    worst: int = 0,
    note: str = "",
) -> tuple[dict[str, Any], ConfusionMatrix]:
    """Scores in percent with their protocol, and the confusion matrix behind them.

    Of several scales, "scales" has the scores of each alone, from the same run. save: a new folder that becomes a
    `folder` data set of the predictions, with `note` as its licence, and worst/ with the `worst` worst pictures.
    """
    check_classes(runner.spec, dataset)
    names, predict = label_maps(runner, mode, fit)
    matrices = [ConfusionMatrix(runner.spec.classes) for _ in names]
    lowest = WorstPictures(worst, runner.spec)
    with ExitStack() as stack:
        folder = stack.enter_context(atomic_folder(save)) if save else None
        with ExitStack() as saving:
            sink = saving.enter_context(FolderSink(folder, runner.spec, note)) if folder else None
            for index in tqdm(range(len(dataset)), desc=f"evaluate {dataset.split}", unit="image", leave=False):
                image, target = dataset.read(index)
                maps = predict(image)
                for matrix, labels in zip(matrices, maps, strict=True):
                    matrix.add(target, labels)
                if sink:
                    path = dataset.images[index]
                    sink(Segmentation(Frame(image, "bgr", dataset.name, index, 0, 0, path.name, path), maps[-1]))
                    lowest.add(index, target, maps[-1])
            scores = scores_of(matrices[-1], runner.spec, dataset, fit, mode)
        if folder:
            lowest.write(folder / "worst", dataset)
    if len(names) > 1:
        alone = zip(names[:-1], matrices[:-1], strict=True)
        scores["scales"] = {name: matrix.scores(runner.spec.class_names) for name, matrix in alone}
    return scores, matrices[-1]


def corruption_scores(
    runner: Runner, dataset: Dataset, mode: Mode, corruptions: Sequence[str], fit: str | None = None
) -> dict[str, Any]:
    """For each corruption its strengths, and mIoU and pixel accuracy in percent at severity 1, 2 and 3."""
    predict = label_maps(runner, mode, fit)[1]
    result: dict[str, Any] = {}
    for name in corruptions:
        scores = []
        for severity in SEVERITIES:
            worse = corrupted(dataset, name, severity)
            indices, title = range(len(dataset)), f"{name} {severity} of {SEVERITIES[-1]}"
            matrix = confusion_of(lambda image: predict(image)[-1], runner.spec, worse, indices, title)
            scores.append(matrix.scores(runner.spec.class_names))
        strengths = {unit: list(values) for unit, values in STRENGTHS[name].items()}
        figures = {key: [score[key] for score in scores] for key in ("miou", "pixel_accuracy")}
        result[name] = {"severity": list(SEVERITIES), **strengths, **figures}
    return result


def text_of(scores: dict[str, Any]) -> str:
    """The scores as lines to print."""
    protocol, lines = scores["protocol"], []
    for name, row in scores["per_class"].items():
        lines.append(
            f"{name:>16}  IoU {row['iou']:6.2f}  precision {row['precision']:6.2f}  recall {row['recall']:6.2f}"
        )
    lines += [f"{'scale ' + name:>16}  {_means(row)}" for name, row in scores.get("scales", {}).items()]
    lines.append(f"{_means(scores)}  on {_conditions(protocol)}")
    if table := scores.get("corruptions"):
        lines.append(f"{'mIoU':>16}  {'clean':>6}" + "".join(f"  {f'at {severity}':>6}" for severity in SEVERITIES))
        for name, row in table.items():
            lines.append(f"{name:>16}  {scores['miou']:6.2f}" + "".join(f"  {miou:6.2f}" for miou in row["miou"]))
    return "\n".join(lines)


def caption_of(scores: dict[str, Any]) -> str:
    """What figures must state, as one line."""
    return f"{scores['protocol']['artefact']} on {_conditions(scores['protocol'])}"


def _conditions(protocol: dict[str, Any]) -> str:
    data = f"{protocol['name'] or protocol['dataset']} {protocol['split']}"
    how = f"{protocol['engine']}, {protocol['precision']}; {protocol['mode']}"
    return f"{counted(protocol['images'], 'image')} of {data} ({how})"


def _means(scores: dict[str, Any]) -> str:
    return (
        f"mIoU {scores['miou']:.2f}  mAcc {scores['macc']:.2f}  pixel accuracy {scores['pixel_accuracy']:.2f}  "
        f"F1 {scores['f1']:.2f}"
    )
