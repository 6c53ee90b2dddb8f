"""ModelSpec: what it accepts, refuses, and says about itself in JSON."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest
import torch

from pspnet.errors import PspnetError
from pspnet.spec import OUTPUT_STRIDES, ModelSpec, check_size, map_size, size_from_text


def spec(**changes: Any) -> ModelSpec:
    """A valid spec of two classes, with changes."""
    fields: dict[str, Any] = {
        "backbone": "resnet18", "output_stride": 8, "bins": (1, 2, 3, 6), "branch_channels": 128, "head_channels": 128,
        "aux_channels": 64, "class_names": ("road", "sky"), "palette": ((1, 2, 3), (4, 5, 6)), "input_size": (96, 128),
    }  # fmt: skip
    return ModelSpec(**{**fields, **changes})


def test_json_round_trip_keeps_every_field() -> None:
    ours = spec(drivable=(0,), fit="letterbox", align_corners=True, licence="é", recipe={"lr": 0.1, "scales": [1, 2]})
    assert ModelSpec.from_json(ours.to_json()) == ours
    assert hash(ModelSpec.from_json(ours.to_json()).palette)  # tuples all the way, not lists


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "vgg"}, "resnet18, resnet34, resnet50, resnet101, mobilenet_v2"),
        ({"output_stride": 4}, "8, 16 or 32"),
        ({"bins": (-1,)}, "bins"),
        ({"bins": (0, 2)}, "bins"),
        ({"bins": (2, 2)}, "bins"),
        ({"fit": "squeeze"}, "stretch, letterbox, crop"),
        ({"class_names": (), "palette": ()}, "1 to 254 classes"),
        ({"palette": ((1, 2, 3),)}, "each with one colour"),
        ({"class_names": ("road", "road")}, "must differ"),
        ({"input_size": (40, 128)}, "smaller than the largest bin"),
        ({"class_names": tuple(map(str, range(255))), "palette": ((0, 0, 0),) * 255}, "1 to 254 classes"),
    ],
)
def test_a_wrong_field_is_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PspnetError, match=re.escape(message)) as caught:
        spec(**changes)
    assert "\n" not in str(caught.value)


def test_damaged_json_is_refused() -> None:
    whole = json.loads(spec().to_json())
    missing = {k: v for k, v in whole.items() if k != "bins"}
    for text in ("", "[1]", "null", "3", json.dumps(missing), json.dumps({**whole, "input_size": "96x96"})):
        with pytest.raises(PspnetError, match="Export it again"):
            ModelSpec.from_json(text)
    with pytest.raises(PspnetError, match="newer version"):
        ModelSpec.from_json(json.dumps({**whole, "depth": 3}))


def test_the_254_class_limit_leaves_room_for_255() -> None:
    names = tuple(map(str, range(254)))
    assert spec(class_names=names, palette=((0, 0, 0),) * 254).classes == 254


@pytest.mark.parametrize("output_stride", OUTPUT_STRIDES)
@pytest.mark.parametrize("size", [(96, 128), (97, 129), (111, 100)])
def test_map_size_is_that_of_stride_two_convolutions(size: tuple[int, int], output_stride: int) -> None:
    x = torch.zeros(1, 1, *size)
    for _ in range(output_stride.bit_length() - 1):
        x = torch.nn.functional.conv2d(x, torch.zeros(1, 1, 3, 3), stride=2, padding=1)
    assert map_size(size, output_stride) == tuple(x.shape[2:])
    assert spec(input_size=size, output_stride=output_stride, bins=(1, 2)).map_size == tuple(x.shape[2:])


@pytest.mark.parametrize("output_stride", OUTPUT_STRIDES)
def test_the_size_that_the_error_suggests_is_the_smallest_that_works(output_stride: int) -> None:
    with pytest.raises(PspnetError, match="Try --size") as caught:
        check_size((30, 500), output_stride, (1, 2, 3, 6))
    suggested = size_from_text(str(caught.value).split("--size ")[1])
    check_size(suggested, output_stride, (1, 2, 3, 6))
    assert suggested[1] == 500
    with pytest.raises(PspnetError):
        check_size((suggested[0] - 1, 500), output_stride, (1, 2, 3, 6))


def test_size_from_text() -> None:
    assert size_from_text("512x1024") == (512, 1024)
    assert size_from_text("360X480") == (360, 480)
    for text in ("", "512", "x", "0x5", "5x0", "ax4", "-1x5", "1.5x3", "5x5x5", "5*5"):
        with pytest.raises(PspnetError, match="HEIGHTxWIDTH"):
            size_from_text(text)


def test_a_spec_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec().fit = "crop"  # type: ignore[misc]
