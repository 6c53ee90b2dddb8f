"""ModelSpec: what an artefact says about itself, so that nobody types a size, a mean or a class name twice."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any, Protocol

from pspnet.errors import PspnetError

IGNORE = 255
"""Label of a pixel without a class: unlabelled in a data set, not seen by the network in a prediction."""

LARGEST_SIDE = 16384
"""No side of a picture and no width of a layer is larger; a larger number is a slip of the keyboard."""

BACKBONES = ("resnet18", "resnet34", "resnet50", "resnet101", "mobilenet_v2", "mobilenet_v3_large")
STEMS = ("7x7", "deep", "v1c")
DILATIONS = ("semseg", "contract")
STAGES = (1, 2, 3, 4)
OUTPUT_STRIDES = (8, 16, 32)
FITS = ("stretch", "letterbox", "crop")

# torchvision's ImageNet statistics in grey levels: https://pytorch.org/vision/stable/models.html
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


class NetworkSpec(Protocol):
    """What running and scoring a network asks of its spec, be it a PSPNet's `ModelSpec` or a guest's `GuestSpec`.

    Units and meanings are those of `ModelSpec`.
    """

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def palette(self) -> tuple[tuple[int, int, int], ...]: ...

    @property
    def input_size(self) -> tuple[int, int]: ...

    @property
    def fit(self) -> str: ...

    @property
    def align_corners(self) -> bool: ...

    @property
    def mean(self) -> tuple[float, float, float]: ...

    @property
    def drivable(self) -> tuple[int, ...]: ...

    @property
    def licence(self) -> str: ...

    @property
    def classes(self) -> int: ...


@dataclass(frozen=True)
class ModelSpec:
    """Everything about a trained PSPNet except its weights; travels in the checkpoint and in the ONNX metadata.

    palette: one RGB triple per class, 0..255. mean, std: RGB, in grey levels 0..255. input_size: (height, width) in
    pixels. bins: of the pyramid, which a network without bins lacks. branch_channels: width of each PPM branch;
    head_channels: width of the 3x3 bottleneck.
    stem: of a ResNet, one 7x7 convolution, or three 3x3 of 64, 64 and 128 channels ("deep", hszhao/semseg) or 32, 32
    and 64 ("v1c", mmsegmentation). dilation: "semseg" or "contract", see `backbone.Backbone`. aux_stages: stages, 1 to
    4, that an aux head reads in training; mobilenets' are cut where a ResNet's are, at strides 4, 8, 16 and 32.
    channels: of a pruned network, convolution -> output channels where these differ from the standard.
    drivable: indices of the classes that a vehicle may drive on. recipe, dataset, metrics: how the weights came about.
    """

    backbone: str
    output_stride: int
    bins: tuple[int, ...]
    branch_channels: int
    head_channels: int
    aux_channels: int
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    input_size: tuple[int, int]
    fit: str = "stretch"
    align_corners: bool = False
    stem: str = "7x7"
    dilation: str = "semseg"
    aux_stages: tuple[int, ...] = (3,)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    ignore_index: int = IGNORE
    drivable: tuple[int, ...] = ()
    dataset: str = ""
    licence: str = ""
    channels: dict[str, int] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.backbone not in BACKBONES:
            raise PspnetError(f"unknown backbone {self.backbone!r}: choose one of {', '.join(BACKBONES)}")
        if self.output_stride not in OUTPUT_STRIDES:
            raise PspnetError(f"output stride is {self.output_stride}: it must be 8, 16 or 32")
        self._check_backbone()
        if min(self.bins, default=1) < 1 or len(set(self.bins)) != len(self.bins):
            raise PspnetError(f"bins are {self.bins}: they must be 1 or more and all different")
        if self.fit not in FITS:
            raise PspnetError(f"fit is {self.fit!r}: choose one of {', '.join(FITS)}")
        if not 1 <= len(self.class_names) < IGNORE or len(self.palette) != len(self.class_names):
            raise PspnetError(
                f"{len(self.class_names)} classes and {len(self.palette)} colours: 1 to 254 classes are needed, "
                "each with one colour"
            )
        if len(set(self.class_names)) != len(self.class_names):
            raise PspnetError("two classes have the same name: class names must differ")
        self._check_values()
        check_size(self.input_size, self.output_stride, self.bins)

    def _check_backbone(self) -> None:
        if self.stem not in STEMS:
            raise PspnetError(f"stem is {self.stem!r}: choose one of {', '.join(STEMS)} with --stem")
        if self.stem != STEMS[0] and not self.has_stems:
            raise PspnetError(f"{self.backbone} has a stem of its own: --stem {self.stem} is for resnets, leave it out")
        if self.dilation not in DILATIONS:
            raise PspnetError(f"dilation is {self.dilation!r}: choose one of {', '.join(DILATIONS)} with --dilation")
        whole = all(type(stage) is int for stage in self.aux_stages)
        if not whole or len(set(self.aux_stages)) != len(self.aux_stages) or not set(self.aux_stages) <= set(STAGES):
            raise PspnetError(
                f"aux stages are {self.aux_stages}: give stages of 1 to 4, all different, for example --aux-stages 3,2"
            )

    def _check_values(self) -> None:
        widths = (self.branch_channels, self.head_channels, self.aux_channels, *self.input_size, *self.bins)
        numbers = (*self.mean, *self.std)
        colours = [value for colour in self.palette for value in colour]
        for wrong, needed in (
            (any(type(v) is not int or not 1 <= v <= LARGEST_SIDE for v in widths) or len(self.input_size) != 2,
             "widths, bins and sizes must be whole numbers from 1"),
            (len(numbers) != 6 or not all(isinstance(v, int | float) and math.isfinite(v) for v in numbers)
             or min(self.std) <= 0, "mean and std must be three finite numbers each, std above 0"),
            (any(len(colour) != 3 for colour in self.palette)
             or any(type(v) is not int or not 0 <= v <= 255 for v in colours), "colours must be triples from 0 to 255"),
            (any(type(v) is not int or not 0 <= v < self.classes for v in self.drivable),
             "drivable must hold indices of classes"),
            (any(not isinstance(name, str) for name in self.class_names), "class names must be text"),
            (not isinstance(self.channels, dict) or any(type(v) is not int or v < 1 for v in self.channels.values()),
             "channels must be whole numbers from 1 by name of a convolution"),
        ):  # fmt: skip
            if wrong:
                raise PspnetError(f"the spec of this artefact is damaged: {needed}. Export it again")

    @property
    def classes(self) -> int:
        """Number of classes C."""
        return len(self.class_names)

    @property
    def has_stems(self) -> bool:
        """Whether the backbone leaves the choice of its stem."""
        return self.backbone.startswith("resnet")

    @property
    def map_size(self) -> tuple[int, int]:
        """(height, width) of the feature map and of the logits."""
        return map_size(self.input_size, self.output_stride)

    def to_json(self) -> str:
        """The spec as one JSON object."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ModelSpec:
        """The inverse of `to_json`; PspnetError where a field is missing, unknown or wrong."""
        try:
            raw = json.loads(text)
            if not isinstance(raw, dict):
                raise ValueError("it is no JSON object")
            fields = dataclasses.fields(cls)
            if unknown := sorted(set(raw) - {f.name for f in fields}):
                raise PspnetError(
                    f"the spec of this artefact has unknown fields {', '.join(unknown)}: it was written by a newer "
                    "version. Update with: pip install -U pspnet-edge"
                )
            needed = [f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING]
            if missing := [name for name in needed if name not in raw]:
                raise ValueError(f"it lacks {', '.join(missing)}")
            return cls(**{name: _tuples(value) for name, value in raw.items()})
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise PspnetError(f"the spec of this artefact is damaged ({error}). Export it again") from error


def map_size(input_size: tuple[int, int], output_stride: int) -> tuple[int, int]:
    """(height, width) of the feature map: every stride-2 layer rounds up, so the whole does too."""
    return -(-input_size[0] // output_stride), -(-input_size[1] // output_stride)


def check_size(input_size: tuple[int, int], output_stride: int, bins: tuple[int, ...]) -> None:
    """PspnetError where the feature map of `input_size` has fewer rows or columns than the largest bin."""
    smallest = (max(bins, default=1) - 1) * output_stride + 1
    if min(input_size) < smallest:
        height, width = (max(side, smallest) for side in input_size)
        raise PspnetError(
            f"the feature map of {input_size[0]}x{input_size[1]} is smaller than the largest bin, {max(bins)}: "
            f"each side must be at least {smallest}. Try --size {height}x{width}"
        )


def size_from_text(text: str) -> tuple[int, int]:
    """(height, width) from "HxW"."""
    height, cross, width = text.lower().partition("x")
    if not (cross and height.isdecimal() and width.isdecimal()):
        raise PspnetError(f"size is {text[:40]!r}: write HEIGHTxWIDTH in pixels, for example 512x1024")
    size = int(height[:9]), int(width[:9])
    if not all(1 <= side <= LARGEST_SIDE for side in size) or max(len(height), len(width)) > 9:
        raise PspnetError(
            f"size is {text[:40]!r}: write HEIGHTxWIDTH with sides of 1 to {LARGEST_SIDE} pixels, for example 512x1024"
        )
    return size


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
