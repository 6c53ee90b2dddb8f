"""`pspnet export --sizes`: costs against the exported graph and PyTorch's counter, pictures against hand figures."""

from __future__ import annotations

import itertools
import json
import math
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from export.exporter import onnx_from_model, without_batch_norm
from export.parity import head_of
from export.pyramid import FixedPyramidPooling, FoldedHead
from export.sizes import HeadShape, constant_bytes, multiply_adds, picture_facts, shape_of, size_facts
from pspnet.cli import main
from pspnet.model import Head
from pspnet.spec import ModelSpec
from tests.nets import random_model

HALF_PIXEL = 0.002  # a resized picture has whole pixels; half of one is less than this share of the smallest side, 360


def exported_head(form: str, size: tuple[int, int]) -> tuple[HeadShape, onnx.ModelProto]:
    """The widths of a random network's head, and its exported graph for one picture, with every shape inferred."""
    spec, model = random_model("resnet18", 16, size)
    graph = head_of(onnx_from_model(model, spec, form))
    graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    del graph.graph.value_info[:]
    graph.graph.output[0].type.tensor_type.ClearField("shape")
    return shape_of(model.head), onnx.shape_inference.infer_shapes(graph, strict_mode=True, data_prop=True)


def shapes_in(graph: onnx.GraphProto) -> dict[str, list[int]]:
    values = [*graph.input, *graph.value_info, *graph.output]
    known = {v.name: [axis.dim_value for axis in v.type.tensor_type.shape.dim] for v in values}
    return known | {tensor.name: list(tensor.dims) for tensor in graph.initializer}


@pytest.mark.parametrize("form", ["fixed", "folded"])
def test_costs_are_those_of_the_exported_head(form: str) -> None:
    """Every product of the graph, counted by its shapes, and every float constant that is no convolution's."""
    shape, model = exported_head(form, (130, 197))
    graph, shapes = model.graph, shapes_in(model.graph)
    assert shapes["features"] == [1, shape.channels, 9, 13] and shapes["logits"] == [1, 11, 9, 13]
    total, weights = 0, set()
    for node in graph.node:
        assert node.op_type in {"Conv", "MatMul", "Relu", "Add", "Mul", "Concat", "Reshape", "Transpose"}
        if node.op_type == "Conv":
            total += math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])
            weights |= set(node.input[1:])
        elif node.op_type == "MatMul":
            total += math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    assert total == sum(multiply_adds(shape, (9, 13))[form].values())
    constants = [t for t in graph.initializer if t.name not in weights and t.data_type == onnx.TensorProto.FLOAT]
    assert sum(onnx.numpy_helper.to_array(t).nbytes for t in constants) == constant_bytes(shape, (9, 13))[form]


@pytest.mark.parametrize("case", range(12))
def test_products_are_those_that_pytorch_counts(case: int) -> None:
    """Any bins, widths, maps and kernels; PyTorch counts two operations for a multiply-add of a product."""
    random = np.random.default_rng(case)
    bins = tuple(sorted(random.choice([1, 2, 3, 4, 6, 8, 9], int(random.integers(1, 6)), replace=False).tolist()))
    cells = tuple(int(value) for value in random.integers(max(bins), 32, 2))
    channels, branch, width, kernel = (int(v) for v in (*random.integers(1, 24, 3), random.choice([1, 3, 5])))
    names = ("road", "sky", "car")
    spec = ModelSpec("resnet18", 8, bins, branch, width, 1, names, ((0, 0, 0),) * 3, (8 * cells[0], 8 * cells[1]))
    head = Head(channels, spec).eval()
    head.bottleneck[0] = torch.nn.Conv2d(channels + len(bins) * branch, width, kernel, padding=kernel // 2, bias=False)
    plain = without_batch_norm(head)
    fixed = without_batch_norm(head)
    fixed.add_module("ppm", FixedPyramidPooling(fixed.ppm, cells))
    folded = FoldedHead(plain, cells)
    shape = shape_of(head)
    costs, constants = multiply_adds(shape, cells), constant_bytes(shape, cells)
    trained = costs["trained"]
    products = {
        "trained": sum(trained.values()) - trained["pooling"] - trained["upsampling"],
        "fixed": sum(costs["fixed"].values()),
        "folded": sum(costs["folded"].values()),
    }
    for form, module in {"trained": head, "fixed": fixed, "folded": folded}.items():
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            module(torch.zeros(1, channels, *cells))
        assert counter.get_total_flops() == 2 * products[form], (form, shape, cells)
        if form != "trained":
            assert sum(buffer.nbytes for _, buffer in module.named_buffers()) == constants[form]


@pytest.mark.parametrize("cells", [(7, 13), (12, 18), (6, 11)])
def test_pooling_counts_what_adaptive_pooling_reads(cells: tuple[int, int]) -> None:
    """A pixel is read by a cell where the cell's derivative by it is not zero."""
    shape = HeadShape(5, 4, 3, 2, (1, 2, 3, 6), 3)
    reads = 0
    for b in shape.bins:
        derivative = torch.autograd.functional.jacobian(
            lambda x, b=b: F.adaptive_avg_pool2d(x, b), torch.zeros(1, *cells)
        )
        reads += int(derivative.count_nonzero())
    trained = multiply_adds(shape, cells)["trained"]
    assert trained["pooling"] == 5 * reads and trained["upsampling"] == 4 * (4 * 4) * cells[0] * cells[1]
    overlaps = any(side % b for side in cells for b in shape.bins)
    assert (trained["pooling"] > 5 * 4 * cells[0] * cells[1]) == overlaps


def test_the_map_and_the_pools_that_divide() -> None:
    facts = size_facts(HeadShape(8, 2, 8, 3, (1, 2, 3, 6), 3), (473, 513), 8)
    assert facts["map"] == [60, 65]  # 473 / 8 = 59.1 and 513 / 8 = 64.1, both rounded up
    assert [(pool["bin"], pool["height"], pool["width"]) for pool in facts["pools"]] == [
        (1, True, True), (2, True, False), (3, True, False), (6, True, False)
    ]  # fmt: skip
    totals = {form: cost.pop("total") for form, cost in facts["multiply_adds"].items()}
    assert totals == {form: sum(cost.values()) for form, cost in facts["multiply_adds"].items()}
    assert facts["to_trained"]["folded"] == totals["folded"] / totals["trained"]


@pytest.mark.parametrize(
    ("camera", "size", "fit", "scale", "wider", "border", "unseen"),
    [
        # 512 / 1080 and 1024 / 1920; 16:9 becomes 2:1, (2 / 1) / (16 / 9) = 9 / 8
        ((1080, 1920), (512, 1024), "stretch", (64 / 135, 8 / 15), 9 / 8, 0, 0),
        # by 512 / 1080 the 1920 columns become 910, so 114 of 1024 stay empty
        ((1080, 1920), (512, 1024), "letterbox", (64 / 135, 910 / 1920), 910 / 1920 * 135 / 64, 114 / 1024, 0),
        # by 1024 / 1920 the 1080 rows become 576, of which 64 are cut
        ((1080, 1920), (512, 1024), "crop", (8 / 15, 8 / 15), 1, 0, 1 / 9),
        # 4:3 into a square: a quarter more height for the same width
        ((480, 640), (240, 240), "stretch", (1 / 2, 3 / 8), 3 / 4, 0, 0),
        ((480, 640), (240, 240), "letterbox", (3 / 8, 3 / 8), 1, 1 / 4, 0),
        ((480, 640), (240, 240), "crop", (1 / 2, 1 / 2), 1, 0, 1 / 4),
        ((720, 1280), (720, 1280), "letterbox", (1, 1), 1, 0, 0),
    ],
)  # fmt: skip
def test_pictures_are_as_calculated_by_hand(
    camera: tuple[int, int], size: tuple[int, int], fit: str, scale: tuple[float, float],
    wider: float, border: float, unseen: float,
) -> None:  # fmt: skip
    facts = picture_facts(camera, size, fit)
    assert facts["scale"] == pytest.approx(scale) and facts["wider"] == pytest.approx(wider)
    assert facts["border"] == pytest.approx(border) and facts["unseen"] == pytest.approx(unseen)


@pytest.mark.parametrize("camera", [(720, 1280), (1200, 1920), (1080, 1000)])
@pytest.mark.parametrize("size", [(473, 473), (360, 480), (512, 1024)])
def test_shares_follow_from_the_aspect_ratios(camera: tuple[int, int], size: tuple[int, int]) -> None:
    """Border and unseen are both 1 - the smaller aspect ratio over the larger, but for whole pixels."""
    ratios = sorted((camera[1] / camera[0], size[1] / size[0]))
    lost = 1 - ratios[0] / ratios[1]
    assert picture_facts(camera, size, "letterbox")["border"] == pytest.approx(lost, abs=HALF_PIXEL)
    assert picture_facts(camera, size, "crop")["unseen"] == pytest.approx(lost, abs=HALF_PIXEL)


def test_the_command_prints_a_checkpoints_table(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["export", str(small_checkpoint), "--sizes", "97x128,512x1024", "--cameras", "1080x1920"]
    assert main([*command, "--json", "sizes.json"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["sizes.json"]  # and no ONNX file
    text, table = capsys.readouterr().out, json.loads((tmp_path / "sizes.json").read_text())
    assert table["output_stride"] == 16 and table["checkpoint"] == "small.pt"
    assert [facts["map"] for facts in table["sizes"]] == [[7, 8], [32, 64]]
    assert [(facts["size"], facts["fit"]) for facts in table["pictures"]] == [
        ([97, 128], "stretch"), ([97, 128], "letterbox"), ([97, 128], "crop"),
        ([512, 1024], "stretch"), ([512, 1024], "letterbox"), ([512, 1024], "crop"),
    ]  # fmt: skip
    lines = text.splitlines()
    assert lines[0].startswith("small.pt: mobilenet_v2, output stride 16")
    assert max(map(len, lines)) <= 120
    folded = table["sizes"][1]["multiply_adds"]["folded"]["total"]
    row = next(line for line in lines if line.startswith("512x1024"))
    assert row.split()[:4] == ["512x1024", "32x64", "1,", "2"] and f" {folded / 1e9:.2f} " in row
    picture = next(line for line in lines if line.startswith("1080x1920  512x1024"))
    assert "0.474 x 0.533  12.5 % wider" in picture and picture.split()[-2:] == ["11.1", "%"]


def test_without_a_checkpoint_the_default_network_is_shown(capsys: pytest.CaptureFixture) -> None:
    assert main(["export", "--sizes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "default network" in lines[0] and "mobilenet_v2, output stride 8, bins 1, 2, 3, 6" in lines[0]
    assert sum(line.startswith("1080x1920") for line in lines) == 7
    rows = [line.split()[0] for line in lines[5:12]]
    assert rows == ["360x480", "473x473", "512x1024", "713x713", "720x960", "720x1280", "1024x2048"]
    # 45 x 60 cells, 3x3 taps, 320 channels and four branches of 80 to 128 channels: 1.99 G in the bottleneck alone
    assert " 2.00 " in lines[5]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "export needs a checkpoint"),
        ("--cameras 720x1280", "give --sizes too"),
        ("--sizes 360", "size is '360'"),
        ("--sizes 360x480,", "size is ''"),
        ("--sizes 360x480 --cameras big", "size is 'big'"),
        ("--sizes 360x480,40x480", "the feature map of 40x480 is smaller than the largest bin, 6"),
        ("--sizes -o m.onnx", "leave out --output"),
        ("--sizes --fp16", "leave out --fp16"),
        ("--sizes --head fixed", "leave out --head"),
        ("--sizes --images 0", "leave out --images"),
        ("--sizes --dataset list", "leave out --dataset"),
        ("--cameras 720x1280 -o m.onnx", "give --sizes too"),
        ("--sizes 100000x480", "sides of 1 to 16384 pixels"),
        ("missing.pt --sizes", "missing.pt"),
    ],
)
def test_bad_requests_are_refused_in_one_line(arguments: str, said: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["export", *arguments.split()]) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1 and said in printed.err and not printed.out


def test_the_largest_sizes_keep_their_columns_apart(capsys: pytest.CaptureFixture) -> None:
    assert main(["export", "--sizes", "16384x16384,360x480", "--cameras", "16384x16384,720x1280"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[5].split()[:2] == ["16384x16384", "2048x2048"] and lines[6].split()[:2] == ["360x480", "45x60"]
    for header in (lines[4], lines[10]):
        block = lines[lines.index(header) : lines.index(header) + 3]
        blank = [all(line[i : i + 2].isspace() for line in block) for i in range(min(map(len, block)) - 1)]
        gaps = sum(now and not before for before, now in itertools.pairwise([False, *blank]))
        assert gaps == len([word for word in re.split(" {2,}", header) if word]) - 1, block
    title, names = lines[3], lines[4]
    assert title.index("multiply-adds") == names.index("as trained")
    assert names[title.index("float32") - 2 :].split() == ["fixed", "folded"]
