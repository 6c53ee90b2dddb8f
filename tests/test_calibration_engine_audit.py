"""The fusion audit on inspector texts in the words of both generations, written by hand after NVIDIA's examples."""

from __future__ import annotations

from typing import Any

import pytest

from calibration.engine_audit import audit, precision_of, text_of

INT8_10 = "Thirty-two wide channel vectorized row major Int8 format."
HALF_10 = "Channel major FP16 format where channel % 8 == 0"


def tensor(name: str, kind: str, generation: int) -> dict[str, Any]:
    """A tensor as 10 or 11 spells it; kind: Int8, Half, Float or UInt8."""
    if generation == 10:
        words = {"Int8": INT8_10, "Half": HALF_10, "Float": "Row major linear FP32", "UInt8": "Row major linear UInt8"}
        return {"Name": name, "Dimensions": [1, 8, 4, 4], "Format/Datatype": words[kind]}
    return {"Name": name, "Dimensions": [1, 8, 4, 4], "Format": "Row major linear format (kLINEAR)", "DataType": kind}


def layer(name: str, kind: str, source: str, target: str, generation: int, **more: Any) -> dict[str, Any]:
    """A layer from a tensor of one type to one of another."""
    return {
        "Name": name, "LayerType": kind, "Inputs": [tensor(f"{name}_in", source, generation)],
        "Outputs": [tensor(f"{name}_out", target, generation)], **more,
    }  # fmt: skip


def engine(generation: int) -> dict[str, Any]:
    """Two INT8 convolutions and a half one, a pointwise kernel, a reformat, a Q alone and a layer that does nothing."""
    layers = [
        layer("image_to_fp16", "kgen", "UInt8", "Half", generation),
        layer("Reformatting CopyNode for Input Tensor 0 to stem", "Reformat", "Half", "Half", generation),
        layer("features_QuantizeLinear", "Reformat", "Half", "Int8", generation, Origin="QDQ"),
        layer("conv1 + relu1", "CaskConvolution", "Int8", "Int8", generation, Weights={"Type": "Int8", "Count": 64}),
        layer("conv2 + add", "CaskConvolution", "Int8", "Half", generation, ParameterType="Convolution"),
        layer("classifier", "CaskGemmConvolution", "Half", "Half", generation, Weights={"Type": "Half", "Count": 64}),
        layer("reshape", "NoOp", "Half", "Half", generation),
        layer("logits_to_fp32", "PointWiseV2", "Float", "Float", generation),
    ]
    names = ["image", "logits"]
    io: dict[str, Any] = (
        {"Bindings": names} if generation == 10 else {"I/O Tensors": [{"Name": name} for name in names]}
    )
    return {"Layers": layers, **io}


@pytest.mark.parametrize("generation", [10, 11])
def test_both_generations_tell_the_same(generation: int) -> None:
    found = audit(engine(generation))
    assert found["detailed"] and found["layers"] == 8
    assert found["by_precision"] == {"int8": 2, "fp16": 2, "fp32": 1}
    assert (found["convolutions"], found["int8_convolutions"], found["float_convolutions"]) == (3, 2, ["classifier"])
    assert (found["reformats"], found["standalone_qdq"]) == (1, 1)
    assert found["standalone_qdq_names"] == ["features_QuantizeLinear"]
    assert found["by_type"]["CaskConvolution"] == 2 and found["io"] == ["image", "logits"]
    assert text_of(found) == (
        "8 layers (2 fp16, 2 int8, 1 fp32), 1 reformat, 2 of 3 convolutions in INT8, 1 stand-alone Q/DQ"
    )


@pytest.mark.parametrize("generation", [10, 11])
@pytest.mark.parametrize(
    ("name", "kind", "source", "target", "alone"),
    [
        ("scale", "Scale", "Half", "Int8", True),
        ("x_DequantizeLinear", "kgen", "Int8", "Half", True),
        ("q", "Quantize", "Half", "Int8", True),
        ("relu + x_QuantizeLinear", "kgen", "Half", "Int8", False),  # fused into a kernel that does something
        ("pool", "CaskPooling", "Int8", "Int8", False),
        ("resize", "kgen", "Half", "Half", False),
    ],
)
def test_a_quantiser_counts_where_it_is_a_kernel_of_its_own(
    generation: int, name: str, kind: str, source: str, target: str, alone: bool
) -> None:
    assert audit({"Layers": [layer(name, kind, source, target, generation)]})["standalone_qdq"] == alone


def test_int8_weights_behind_a_float_input_are_no_int8_convolution() -> None:
    unfused = layer("conv", "CaskConvolution", "Half", "Half", 10, Weights={"Type": "Int8", "Count": 64})
    assert precision_of(unfused) == "fp16"


def test_names_alone_are_no_audit_and_unknown_types_say_so() -> None:
    names = audit({"Layers": ["conv1 + relu1", "conv2"], "Bindings": ["image", "logits"]})
    assert not names["detailed"] and names["layers"] == 2 and not names["by_precision"]
    assert "no more than the names" in text_of(names)
    open_size = {"Name": "conv", "LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": "N/A due to dynamic"}]}
    assert precision_of(open_size) == "unknown"
