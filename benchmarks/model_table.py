"""Parameters and multiply-adds (MACs) of PSPNet, layer by layer or by stage; nothing is computed but shapes.

python benchmarks/model_table.py --json docs/results/model-table.json
python benchmarks/model_table.py --backbones resnet50 --stem deep --layers

A convolution's MACs are its weights times its output pixels; its row has the parameters of its batch norm too. Bias,
norm, activation, pooling and interpolation are not counted: they are below one percent. Without aux heads, which run in
training only.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pspnet.errors import PspnetError
from pspnet.files import write_json
from pspnet.model import PSPNet, default_widths
from pspnet.spec import ModelSpec, size_from_text

BINS = (1, 2, 3, 6)
Row = dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    """Print the table of each backbone; write all of them to --json."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--backbones", default="resnet18,resnet50,resnet101", help="with commas")
    options.add_argument("--size", default="512x1024", help="HxW of the input")
    options.add_argument("--stem", default="7x7", help="7x7, deep or v1c")
    options.add_argument("--output-stride", type=int, default=8)
    options.add_argument("--classes", type=int, default=19, help="19 are Cityscapes'")
    options.add_argument("--layers", action="store_true", help="print every layer, not the stages alone")
    options.add_argument("--json", help="write the figures, layer by layer, here")
    args = options.parse_args(arguments)
    try:
        size = size_from_text(args.size)
        models = [
            model_table(backbone, size, args.stem, args.output_stride, args.classes)
            for backbone in args.backbones.split(",")
        ]
    except PspnetError as error:
        print(f"model_table: {error}", file=sys.stderr)
        return 2
    print("\n\n".join(text_of(model, args.layers) for model in models))
    if args.json:
        command = ["python benchmarks/model_table.py", *(arguments if arguments is not None else sys.argv[1:])]
        write_json(args.json, {"kind": "model table", "command": " ".join(command), "models": models})
    return 0


def model_table(backbone: str, size: tuple[int, int], stem: str, output_stride: int, classes: int) -> Row:
    """The network's totals, with "stages" and "layers": rows of name, parameters, macs and the output's shape.

    size: (height, width) in pixels. Parameters are counts, batch norm's running statistics not among them.
    """
    spec = ModelSpec(
        backbone, output_stride, BINS, *default_widths(backbone), tuple(map(str, range(classes))),
        ((0, 0, 0),) * classes, size, stem=stem, aux_stages=(),
    )  # fmt: skip
    with torch.device("meta"):  # shapes only: nothing is allocated or computed
        model = PSPNet(spec).eval()
        layers = layer_rows(model, spec, torch.empty(1, 3, *size))
    stages: dict[str, Row] = {}
    for layer in layers:
        stage = stages.setdefault(layer["stage"], {"name": layer["stage"], "parameters": 0, "macs": 0})
        stage["parameters"] += layer["parameters"]
        stage["macs"] += layer["macs"]
        stage["output"] = layer["output"]
    return {
        "backbone": backbone, "size": list(size), "stem": stem if spec.has_stems else "its own",
        "output_stride": output_stride, "classes": classes, "bins": list(BINS),
        "branch_channels": spec.branch_channels, "head_channels": spec.head_channels,
        "parameters": sum(row["parameters"] for row in layers), "macs": sum(row["macs"] for row in layers),
        "stages": list(stages.values()), "layers": layers,
    }  # fmt: skip


def layer_rows(model: PSPNet, spec: ModelSpec, images: Tensor) -> list[Row]:
    """A row for each convolution, in the order in which they run."""
    rows: list[Row] = []
    norms = _norms(model)

    def count(name: str, convolution: nn.Conv2d, output: Tensor) -> None:
        weight = convolution.weight
        kernel = f"{weight.shape[2]}x{weight.shape[3]}"
        for word, value in (("/", convolution.stride[0]), (" dilation ", convolution.dilation[0])):
            kernel += f"{word}{value}" if value > 1 else ""
        parameters = [*convolution.parameters(), *(norms[name].parameters() if name in norms else ())]
        rows.append({
            "name": name, "stage": stage_of(name, spec, model.backbone.first_stage), "kernel": kernel,
            "channels": [convolution.in_channels, convolution.out_channels], "output": list(output.shape[1:]),
            "parameters": sum(p.numel() for p in parameters),
            "macs": weight.numel() * output.shape[2] * output.shape[3],
        })  # fmt: skip

    handles = [
        module.register_forward_hook(lambda module, _, output, name=name: count(name, module, output))
        for name, module in model.named_modules() if isinstance(module, nn.Conv2d)
    ]  # fmt: skip
    with torch.inference_mode():
        model(images)
    for handle in handles:
        handle.remove()
    return rows


def stage_of(name: str, spec: ModelSpec, first_stage: int) -> str:
    """stem, layer1 to layer4, ppm bin 1 …, bottleneck or classifier, of a module's name.

    first_stage: so many modules of the backbone's `early` end with layer1; a mobilenet's stem is the first of them, a
    ResNet's all but the last.
    """
    parts = name.split(".")
    if parts[0] == "head":
        return f"ppm bin {spec.bins[int(parts[3])]}" if parts[1] == "ppm" else parts[1]
    if parts[1] != "early":
        return {"before_last": "layer3", "last": "layer4"}[parts[1]]
    index = int(parts[2])
    if index < (first_stage - 1 if spec.has_stems else 1):
        return "stem"
    return "layer1" if index < first_stage else "layer2"


def _norms(model: nn.Module) -> dict[str, nn.Module]:
    """Name of a convolution -> the batch norm registered next behind it, which reads its result."""
    pairs: dict[str, nn.Module] = {}
    last = ""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            last = name
        elif isinstance(module, nn.BatchNorm2d):
            pairs[last] = module
    return pairs


def text_of(table: Row, layers: bool) -> str:
    """One network as aligned lines, by stage or layer by layer."""
    height, width = table["size"]
    lines = [
        f"{table['backbone']}, stem {table['stem']}, output stride {table['output_stride']}, {height}x{width}, "
        f"{table['classes']} classes, bins {', '.join(map(str, table['bins']))}, no aux head",
        f"{'':36}{'kernel' if layers else '':18}{'output':>17}{'parameters':>14}{'million MACs':>16}",
    ]
    for row in (*table["layers" if layers else "stages"], {"name": "total", **table, "output": []}):
        output = "x".join(map(str, row["output"]))
        lines.append(
            f"{row['name']:36}{row.get('kernel', ''):18}{output:>17}{row['parameters']:>14,}{row['macs'] / 1e6:>16,.1f}"
        )
    return "\n".join(line.rstrip() for line in lines)


if __name__ == "__main__":
    sys.exit(main())
