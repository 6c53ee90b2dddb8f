"""Where a training run begins: a new model on ImageNet features, or another checkpoint for other classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pspnet.backbone import load_backbone
from pspnet.checkpoint import model_from_state, read_checkpoint, replace_spec
from pspnet.dataset import Dataset
from pspnet.model import PSPNet, default_widths
from pspnet.spec import ModelSpec

CLASSIFIERS = ("head.classifier", "aux_head.classifier")


def new_model(
    dataset: Dataset, backbone: str, output_stride: int, bins: tuple[int, ...], size: tuple[int, int], fit: str,
    align_corners: bool, weights: str, seed: int,
) -> tuple[ModelSpec, PSPNet]:  # fmt: skip
    """A PSPNet for the classes of `dataset`; prints what was loaded. weights: imagenet, none or a file."""
    torch.manual_seed(seed)
    branch, head, aux = default_widths(backbone)
    spec = ModelSpec(
        backbone, output_stride, bins, branch, head, aux, dataset.classes.names, dataset.classes.palette, size, fit,
        align_corners, drivable=dataset.classes.drivable, dataset=f"{dataset.name} {dataset.split}",
        licence=dataset.classes.licence, recipe={"weights": Path(weights).name},
    )  # fmt: skip
    model = PSPNet(spec)
    print(load_backbone(model.backbone, backbone, weights))
    return spec, model


def model_from_checkpoint(dataset: Dataset, path: str | Path, seed: int, **changes: Any) -> tuple[ModelSpec, PSPNet]:
    """The model of a checkpoint for the classes of `dataset`; prints what was kept.

    Everything but the classifiers is kept as it is. Of the classifiers, a class that has the same name in both keeps
    its weights and a new class begins at random. changes: fields of the spec (output_stride, input_size, fit).
    """
    torch.manual_seed(seed)
    old, raw = read_checkpoint(path)
    classes = dataset.classes
    spec = replace_spec(
        old, class_names=classes.names, palette=classes.palette, drivable=classes.drivable,
        dataset=f"{dataset.name} {dataset.split}", licence=classes.licence or old.licence,
        recipe={"init": Path(path).name, "init_recipe": old.recipe}, metrics={}, **changes,
    )  # fmt: skip
    state = dict(raw["model"])
    fresh = PSPNet(spec).state_dict()
    shared = [(spec.class_names.index(n), old.class_names.index(n)) for n in spec.class_names if n in old.class_names]
    for key in [k for k in state if k.startswith(CLASSIFIERS)]:
        state[key] = _mapped_rows(fresh[key], state[key], shared)
    new = [name for name in spec.class_names if name not in old.class_names]
    kept = f"the classifiers keep {len(shared)} of {spec.classes} classes by name"
    print(
        f"from {path}: backbone, pyramid, bottleneck and aux head; {kept}" + (f", new: {', '.join(new)}" if new else "")
    )
    return spec, model_from_state(spec, state, path)


def _mapped_rows(fresh: Tensor, old: Tensor, shared: list[tuple[int, int]]) -> Tensor:
    rows = fresh.clone()
    for new_index, old_index in shared:
        rows[new_index] = old[old_index].to(rows.dtype)
    return rows
