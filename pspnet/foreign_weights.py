"""Checkpoints of hszhao/semseg and of mmsegmentation's PSPNet as ours: which network it is, and its tensors renamed."""

from __future__ import annotations

import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pspnet.errors import PspnetError
from pspnet.torch_file import contents_of, reason_of_refusal

# Their names as ours, with the parts that depend on the network still to come: stem.N, layerN and aux.K.
# model/pspnet.py of hszhao/semseg:
SEMSEG: tuple[tuple[str, str], ...] = (
    (r"layer0\.", r"stem."),
    (r"ppm\.features\.(\d+)\.1\.", r"head.ppm.branches.\1.0."),
    (r"ppm\.features\.(\d+)\.2\.", r"head.ppm.branches.\1.1."),
    (r"cls\.([01])\.", r"head.bottleneck.\1."),
    (r"cls\.4\.", r"head.classifier."),
    (r"aux\.([01])\.", r"aux.0.bottleneck.\1."),
    (r"aux\.4\.", r"aux.0.classifier."),
)
# mmseg/models/backbones/resnet.py, decode_heads/psp_head.py and fcn_head.py; several aux heads are a numbered list:
MMSEG: tuple[tuple[str, str], ...] = (
    (r"backbone\.stem\.", r"stem."),
    (r"backbone\.conv1\.", r"stem.0."),
    (r"backbone\.bn1\.", r"stem.1."),
    (r"backbone\.layer", r"layer"),
    (r"decode_head\.psp_modules\.(\d+)\.1\.conv\.", r"head.ppm.branches.\1.0."),
    (r"decode_head\.psp_modules\.(\d+)\.1\.bn\.", r"head.ppm.branches.\1.1."),
    (r"decode_head\.bottleneck\.conv\.", r"head.bottleneck.0."),
    (r"decode_head\.bottleneck\.bn\.", r"head.bottleneck.1."),
    (r"decode_head\.conv_seg\.", r"head.classifier."),
    (r"auxiliary_head\.(?=[a-z])", r"auxiliary_head.0."),
    (r"auxiliary_head\.(\d+)\.convs\.0\.conv\.", r"aux.\1.bottleneck.0."),
    (r"auxiliary_head\.(\d+)\.convs\.0\.bn\.", r"aux.\1.bottleneck.1."),
    (r"auxiliary_head\.(\d+)\.conv_seg\.", r"aux.\1.classifier."),
)
DEPTHS: dict[tuple[bool, tuple[int, ...]], str] = {
    (False, (2, 2, 2, 2)): "resnet18", (False, (3, 4, 6, 3)): "resnet34",
    (True, (3, 4, 6, 3)): "resnet50", (True, (3, 4, 23, 3)): "resnet101",
}  # fmt: skip
"""(Bottleneck blocks?, blocks per stage) -> backbone."""
STEMS = {(64, 7): "7x7", (64, 3): "deep", (32, 3): "v1c"}
"""(Channels, kernel) of the first convolution -> stem."""


@dataclass(frozen=True)
class ForeignNet:
    """A PSPNet of another project. fields: what its keys and shapes say of our `ModelSpec`; bins: how many it has.

    state: its tensors under our names, the classifiers for `classes` classes among them.
    """

    project: str
    fields: dict[str, Any]
    bins: int
    classes: int
    state: dict[str, Tensor]


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a PyTorch file, out of "state_dict" and without the "module." of a wrapper; nothing is executed.

    PspnetError where the file is none, is damaged, or holds objects of other kinds.
    """
    if not path.is_file():
        raise PspnetError(f"cannot read weights {path}: no such file. Give imagenet, none or a file with --weights")
    try:
        raw = contents_of(path)
    except Exception as error:
        if isinstance(error, pickle.UnpicklingError) and (kind := re.search(r"GLOBAL ([\w.]+)", str(error))):
            raise PspnetError(
                f"{path} holds more than tensors ({kind[1]}). If you trust it, keep the tensors alone, where the tool "
                f"that wrote it is installed: python -c \"import torch; torch.save(torch.load('{path}', 'cpu', "
                "weights_only=False)['state_dict'], 'tensors.pth')\""
            ) from error
        raise PspnetError(_refusal(path, error)) from error
    state = raw.get("state_dict", raw) if isinstance(raw, dict) else raw
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise PspnetError(f"{path} is not a plain state dict. For one of our checkpoints use --init {path}")
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def _refusal(path: Path, error: Exception) -> str:
    try:
        return f"{path} is not a whole PyTorch state dict ({reason_of_refusal(path, error)}). Fetch it again"
    except OSError as unreadable:
        return f"cannot read weights {path}: {unreadable.strerror}. Give imagenet, none or a file with --weights"


def foreign_net(path: Path) -> ForeignNet | None:
    """The PSPNet of hszhao/semseg or mmsegmentation in a file; None where the file is neither, say, a backbone alone.

    PspnetError where it is one of these projects' files but no PSPNet, or one that this model cannot be.
    """
    state = read_state(path)
    if any(key.startswith("decode_head.") for key in state):
        project, pairs = "mmsegmentation", MMSEG
        fields: dict[str, Any] = {"dilation": "contract"}
    elif any(key.startswith("layer0.") for key in state):
        project, pairs = "hszhao/semseg", SEMSEG
        fields = {"dilation": "semseg", "align_corners": True}
    else:
        return None
    renamed = {_renamed(key, pairs): value for key, value in state.items()}
    try:
        fields |= _backbone_fields(renamed) | _head_fields(renamed)
        classes = len(renamed["head.classifier.weight"])
    except KeyError as error:
        raise PspnetError(
            f"{path} is of {project} but no PSPNet that can be read: {error} is missing or unknown. Give another file"
        ) from error
    bins = len({key.split(".")[3] for key in renamed if key.startswith("head.ppm.branches.")})
    return ForeignNet(project, fields, bins, classes, _ours(renamed, fields))


def _renamed(key: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in pairs:
        key = re.sub(f"^{pattern}", replacement, key)
    return key


def _backbone_fields(state: dict[str, Tensor]) -> dict[str, Any]:
    first = state["stem.0.weight"]
    counts = tuple(len({key.split(".")[1] for key in state if key.startswith(f"layer{n}.")}) for n in (1, 2, 3, 4))
    return {
        "backbone": DEPTHS["layer1.0.conv3.weight" in state, counts],
        "stem": STEMS[first.shape[0], first.shape[-1]],
    }


def _head_fields(state: dict[str, Tensor]) -> dict[str, Any]:
    """Widths, and the stages of the aux heads, told by the channels that each reads; none where the file has none."""
    fields: dict[str, Any] = {
        "branch_channels": state["head.ppm.branches.0.0.weight"].shape[0],
        "head_channels": state["head.bottleneck.0.weight"].shape[0],
    }
    last = "bn3" if "layer1.0.conv3.weight" in state else "bn2"
    stage_of = {len(state[f"layer{n}.0.{last}.weight"]): n for n in (1, 2, 3, 4)}
    numbers = sorted({key.split(".")[1] for key in state if key.startswith("aux.")})
    if numbers:
        weights = [state[f"aux.{number}.bottleneck.0.weight"] for number in numbers]
        fields["aux_channels"] = weights[0].shape[0]
        fields["aux_stages"] = tuple(stage_of[weight.shape[1]] for weight in weights)
    return fields


def _ours(state: dict[str, Tensor], fields: dict[str, Any]) -> dict[str, Tensor]:
    """Tensors under our model's names: stem, layer1 and layer2 are the modules of backbone.early in a row."""
    layer1 = 4 if fields["stem"] == "7x7" else 10  # behind convolution, norm and ReLU, once or thrice, and the max pool
    prefixes = {
        "stem": "backbone.early", "layer1": f"backbone.early.{layer1}", "layer2": f"backbone.early.{layer1 + 1}",
        "layer3": "backbone.before_last", "layer4": "backbone.last",
    }  # fmt: skip
    for number, stage in enumerate(fields.get("aux_stages", ())):
        prefixes[f"aux.{number}"] = f"aux_heads.{stage}"

    def rename(key: str) -> str:
        prefix = next((p for p in prefixes if key.startswith(f"{p}.")), None)
        return key if prefix is None else prefixes[prefix] + key[len(prefix) :]

    return {rename(key): value for key, value in state.items()}
