"""Where a training run begins: a new model on ImageNet features, or another checkpoint for other classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pspnet.backbone import load_backbone
from pspnet.checkpoint import model_from_state, read_checkpoint, replace_spec
from pspnet.dataset import Dataset
from pspnet.errors import PspnetError
from pspnet.foreign_weights import ForeignNet, foreign_net
from pspnet.model import PSPNet, default_widths
from pspnet.spec import LARGEST_SIDE, ModelSpec

DEFAULTS: dict[str, Any] = {
    "backbone": "mobilenet_v2", "output_stride": 8, "bins": (1, 2, 3, 6), "fit": "stretch", "align_corners": False,
}  # fmt: skip


def new_model(
    dataset: Dataset, backbone: str | None, output_stride: int | None, bins: tuple[int, ...] | None,
    size: tuple[int, int], fit: str | None, align_corners: bool | None, weights: str, seed: int, **options: Any,
) -> tuple[ModelSpec, PSPNet]:  # fmt: skip
    """A PSPNet for the classes of `dataset`; prints what was loaded.

    weights: imagenet, none, or a file: of a backbone, or a whole PSPNet of hszhao/semseg or mmsegmentation, which says
    itself what network it is. options: more fields of the spec (stem, dilation, aux_stages, branch_channels,
    head_channels). What is None takes the file's value or the default.
    """
    torch.manual_seed(seed)
    asked = {
        "backbone": backbone, "output_stride": output_stride, "bins": bins, "fit": fit, "align_corners": align_corners,
        **options,
    }  # fmt: skip
    given = {name: value for name, value in asked.items() if value is not None}
    for name in given.keys() & {"branch_channels", "head_channels"}:
        if not 1 <= given[name] <= LARGEST_SIDE:
            flag = f"--{name.replace('_', '-')}"
            raise PspnetError(f"{flag} is {given[name]}: it must be 1 to {LARGEST_SIDE}, for example {flag} 128")
    foreign = None if weights in ("imagenet", "none") else foreign_net(Path(weights))
    if foreign:
        _refuse_conflicts(given, foreign, weights)
        given |= foreign.fields
    fields = DEFAULTS | given
    widths = zip(("branch_channels", "head_channels", "aux_channels"), default_widths(fields["backbone"]), strict=True)
    spec = ModelSpec(
        **dict(widths) | fields, class_names=dataset.classes.names, palette=dataset.classes.palette, input_size=size,
        drivable=dataset.classes.drivable, dataset=f"{dataset.name} {dataset.split}",
        licence=dataset.classes.licence, recipe={"weights": Path(weights).name},
    )  # fmt: skip
    model = PSPNet(spec)
    loaded = load_foreign(model, spec, foreign, weights) if foreign else load_backbone(
        model.backbone, spec.backbone, weights, spec.stem
    )  # fmt: skip
    print(loaded)
    return spec, model


def load_foreign(model: PSPNet, spec: ModelSpec, foreign: ForeignNet, path: str) -> str:
    """Load another project's PSPNet into `model`, made for its fields, and say in one line what was kept.

    Classifiers are kept where the number of classes is the same, else they begin at random.
    """
    wanted = model.state_dict()
    kept = foreign.classes == spec.classes
    state = {name: value for name, value in foreign.state.items() if kept or ".classifier." not in name}
    needed = [
        name for name in wanted
        if not name.endswith("num_batches_tracked")
        and not (name.startswith("aux_heads.") and "aux_stages" not in foreign.fields)
        and (kept or ".classifier." not in name)
    ]  # fmt: skip
    wrong = sorted(state.keys() - wanted.keys()) + [name for name in needed if name not in state]
    wrong += [name for name in wanted.keys() & state.keys() if wanted[name].shape != state[name].shape]
    if wrong:
        raise PspnetError(
            f"{path}: {wrong[0]} is missing, unknown or of another shape in this {foreign.project} file "
            f"({len(wrong)} tensors are): only a plain PSPNet on a ResNet can be read"
        )
    model.load_state_dict({name: value.to(wanted[name].dtype) for name, value in state.items()}, strict=False)
    stages = ", ".join(str(stage) for stage in foreign.fields.get("aux_stages", ()))
    parts = f"{spec.backbone} with the stem {spec.stem} and dilation {spec.dilation}, pyramid, bottleneck"
    classifier = (
        f"the classifier is kept: {spec.classes} classes as here, which must be in the same order" if kept
        else f"a new classifier, for {spec.classes} classes in place of {foreign.classes}"
    )  # fmt: skip
    return f"from {path} ({foreign.project}): {parts}{f', aux head of stage {stages}' if stages else ''}; {classifier}"


def _refuse_conflicts(given: dict[str, Any], foreign: ForeignNet, path: str) -> None:
    for name, value in foreign.fields.items():
        if name in given and given[name] != value:
            flag, stored, asked = name.replace("_", "-"), _flag_text(value), _flag_text(given[name])
            raise PspnetError(f"{path} ({foreign.project}) has {flag} {stored}: leave out --{flag} {asked}")
    bins = given.get("bins", DEFAULTS["bins"])
    if len(bins) != foreign.bins:
        raise PspnetError(f"{path} ({foreign.project}) has {foreign.bins} bins, not {len(bins)}: name them with --bins")


def _flag_text(value: Any) -> str:
    return (",".join(map(str, value)) or "none") if isinstance(value, tuple) else str(value)


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
    for key in [k for k in state if ".classifier." in k]:
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
