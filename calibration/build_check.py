"""Whether an engine is what its ONNX file is, and how much of the float network it keeps: before it is handed out."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calibration.build_sources import Source
from calibration.held_out import FEWEST, HeldOut, TooFewPictures, held_out_pictures
from calibration.score import AGREEMENT, Judge
from pspnet.dataset import check_no_choice, is_dataset, list_images
from pspnet.errors import PspnetError
from pspnet.geometry import Geometry, network_input
from pspnet.spec import ModelSpec
from pspnet.wording import counted
from runtime.tensorrt_runner import TensorRTRunner

CPU_ENGINES = ("openvino", "onnxruntime")
DEFAULT_IMAGES = 24
SEEDED_PICTURES = 8
SEEDED = "seeded noise"
FEWEST_EQUAL = {False: 95.0, True: 80.0}
"""Per cent of labels that an engine must share with its ONNX file, on real pictures and (True) on seeded ones, whose
coarse noise has more near ties. Rounding flips labels at borders; a wrong scale or layer flips most of them."""
LEAST_DB = 10.0
"""Signal to quantisation noise of its logits against the ONNX file's. A network that gives one label everywhere keeps
its labels whatever is wrong; half precision leaves 30 dB and more of the same Q/DQ graph, a wrong scale under 5."""


@dataclass(frozen=True)
class PictureChoice:
    """What engines are compared on: up to `images` pictures of `data`, or seeded ones where that is None."""

    data: str | None = None
    dataset: str = "auto"
    split: str | None = None
    images: int | None = None

    def __post_init__(self) -> None:
        given = {
            "images": self.images, "split": self.split, "dataset": None if self.dataset == "auto" else self.dataset,
        }  # fmt: skip
        if not self.data and (stray := [name for name, value in given.items() if value is not None]):
            raise PspnetError(f"--{stray[0]} chooses pictures of DATA: give --data, or leave out --{stray[0]}")
        if self.images is not None and self.images < 2:
            raise PspnetError(f"images is {self.images}: give --images 2 or more")

    def read(self, source: Source) -> HeldOut:
        """The pictures as network inputs; none of a data set is one that the file was calibrated on."""
        if self.data is None:
            return seeded_pictures(source.spec)
        self.check()
        seen = source.table.images if source.table else {}
        count = self.images or DEFAULT_IMAGES
        try:
            return held_out_pictures(self.data, self.dataset, self.split or "val", seen, count, source.spec)
        except TooFewPictures as error:
            raise self.too_few(error.count, bool(seen)) from error

    def check(self) -> None:
        """PspnetError where `data` is nothing that pictures can be taken from."""
        data = Path(self.data or "")
        if not data.exists():
            raise PspnetError(f"{data} does not exist: give a data set, a folder of pictures or a clip with --data")
        if is_dataset(data):
            return
        if data.is_dir() and not list_images(data):
            raise PspnetError(f"no pictures in {data}: give a data set, a folder of pictures or a clip with --data")
        check_no_choice(data, self.dataset, self.split)

    def too_few(self, count: int, calibrated: bool) -> PspnetError:
        """What is wrong where `count` pictures are not enough. calibrated: some of `data` were left out for that."""
        left = " beside those that the file was calibrated on" if calibrated else ""
        return PspnetError(
            f"{counted(count, 'picture')} in {self.data}{left}, {FEWEST} or more are needed to compare engines on: "
            "give others with --data, or leave it out"
        )


@dataclass(frozen=True)
class Limits:
    """max_miou_drop: points of mIoU that an engine may lose against the float network. min_agreement: per cent of
    labels that must equal that network's. None: no limit."""

    max_miou_drop: float | None = None
    min_agreement: float | None = None

    def __post_init__(self) -> None:
        if self.max_miou_drop is not None and not 0 <= self.max_miou_drop <= 100:
            raise PspnetError(f"max-miou-drop is {self.max_miou_drop:g}: give points of mIoU from 0 to 100")
        if self.min_agreement is not None and not 1 < self.min_agreement <= 100:  # 0.99 was meant to be 99
            raise PspnetError(f"min-agreement is {self.min_agreement:g}: give per cent above 1 and up to 100")

    def __bool__(self) -> bool:
        return self.max_miou_drop is not None or self.min_agreement is not None

    def missed(self, accuracy: dict[str, Any]) -> list[str]:
        """One line for each limit that the figures of `Reference.check` do not keep."""
        lines = []
        if self.min_agreement is not None and not accuracy["agreement"] >= self.min_agreement:
            lines.append(
                f"{accuracy['agreement']:.2f} % of labels equal those of {accuracy['reference']}, the limit is "
                f"{self.min_agreement:g} %"
            )
        if self.max_miou_drop is not None and not accuracy["loss"] <= self.max_miou_drop:
            lines.append(f"mIoU drops by {accuracy['loss']:.2f} points, the limit is {self.max_miou_drop:g}")
        return lines


def check_float(source: Source, original: Source | None, limits: Limits) -> None:
    """PspnetError for limits without the float network of `source`, of which they speak."""
    if not limits or original is not None:
        return
    usual = source.usual_float
    named = f"the float file {usual.name} beside it" if usual != source.path else "its float file beside it"
    other = f", and {usual.name} there is another network" if usual != source.path and usual.is_file() else ""
    raise PspnetError(
        f"{source.path} is held against the float network that it was calibrated from: the limit needs {named}{other}. "
        "Copy it there, or leave out --max-miou-drop and --min-agreement"
    )


class Reference:
    """The networks that engines are held against, computed once on a CPU engine: the float network and the file.

    figure: "mIoU" where the pictures have labels, otherwise the agreement with the reference.
    """

    def __init__(self, source: Source, original: Source | None, pictures: HeldOut, quiet: bool = False) -> None:
        """original: the float network of `source`; where it is None, the file itself stands for it."""
        base, self._has_float = original or source, original is not None
        self._name, self._pictures, self._seeded = base.path.name, pictures, pictures.source == SEEDED
        self._judges = {base.path: Judge(base.path, pictures, quiet=quiet)}
        self._float = self._judges[base.path]
        if source.path not in self._judges:
            self._judges[source.path] = Judge(source.path, pictures, quiet=quiet)
        self.figure = self._float.figure if self._float.figure != AGREEMENT else f"agreement with {self._name}"

    @property
    def inputs(self) -> list[np.ndarray]:
        """The pictures as network inputs (1, H, W, 3) uint8 RGB."""
        return self._pictures.inputs

    def check(self, engine: Path, built_from: Source, device: int) -> dict[str, Any]:
        """The figures of an engine, for its passport, in per cent.

        "value", "float" and "loss" are the figure of the engine, that of the reference, and the difference;
        "reference" is its file, "float_absent" whether that is the engine's own for want of the float network;
        "agreement" is the share of labels that equal the reference's; "parity" the same against the very file that the
        engine was built from, and the signal to quantisation noise ratio of its logits.
        """
        judge = self._judges[built_from.path]
        with TensorRTRunner(engine, device) as runner:
            score = self._float.score_runner(runner, "compare")
            own = score if judge is self._float else judge.score_runner(runner, "compare")
        return {
            "figure": self.figure, "value": score.value, "float": self._float.baseline.value,
            "loss": self._float.loss(score), "agreement": score.agreement, "images": len(self._pictures),
            "source": self._pictures.source, "reference": self._name, "float_absent": not self._has_float,
            "parity": {
                "file": built_from.path.name, "engine": judge.engine, "agreement": own.agreement,
                "sqnr_db": own.sqnr_db,
            },
        }  # fmt: skip

    def not_equal(self, accuracy: dict[str, Any]) -> str | None:
        """Why an engine is not its ONNX file, None where it is."""
        parity, fewest = accuracy["parity"], FEWEST_EQUAL[self._seeded]
        where = f"{parity['file']} on {parity['engine']}"
        if not parity["agreement"] >= fewest:
            return f"only {parity['agreement']:.2f} % of its labels equal those of {where}, {fewest:g} % are needed"
        if not parity["sqnr_db"] >= LEAST_DB:
            return f"its logits are {parity['sqnr_db']:.1f} dB away from those of {where}, {LEAST_DB:g} dB are needed"
        return None


def reference_for(source: Source, original: Source | None, pictures: HeldOut, limits: Limits) -> Reference | None:
    """The reference, or None where no CPU engine is installed that could compute it; PspnetError for limits then."""
    if limits.max_miou_drop is not None and not pictures.targets:
        raise PspnetError(
            f"--max-miou-drop needs labels of this network's classes, and {pictures.source} have none: give a data set "
            "with --data, or --min-agreement in its place"
        )
    if any(importlib.util.find_spec(name) for name in CPU_ENGINES):
        return Reference(source, original, pictures)
    if limits or pictures.source != SEEDED:
        raise PspnetError(
            "engines are compared with the ONNX file on a CPU, and neither openvino nor onnxruntime is installed: pip "
            "install onnxruntime, or leave out --data and limits and use `pspnet evaluate MODEL.engine`"
        )
    return None


def seeded_pictures(spec: ModelSpec) -> HeldOut:
    """Coarse noise, enlarged to the network's size: like real pictures it has areas, so labels are of several classes.

    The same in every run.
    """
    noise = np.random.default_rng(0)
    height, width = spec.input_size
    found = HeldOut(SEEDED, [], [], None, {})
    for number in range(SEEDED_PICTURES):
        small = noise.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), np.uint8)
        picture = network_input(small, Geometry((small.shape[0], small.shape[1]), spec.input_size, "stretch"), spec)
        found.inputs.append(picture[None].copy())
        found.geometries.append(Geometry(spec.input_size, spec.input_size, spec.fit))
        found.hashes[f"seed 0, {number}"] = hashlib.sha256(picture.tobytes()).hexdigest()
    return found
