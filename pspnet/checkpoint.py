"""Checkpoints: {"spec": JSON text, "model": state dict, ...}, readable with weights_only=True."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pspnet.errors import PspnetError
from pspnet.files import atomic_path
from pspnet.model import PSPNet
from pspnet.spec import ModelSpec
from pspnet.torch_file import contents_of, reason_of_refusal


def save_checkpoint(path: str | Path, spec: ModelSpec, model: dict[str, Tensor], **state: Any) -> None:
    """Write a checkpoint, whole or not at all. `state` holds what resuming needs, tensors and plain values only."""
    with atomic_path(path) as temporary:
        contents = {"format": "pspnet-edge 1", "spec": spec.to_json(), "model": model, **state}
        with open(
            temporary, "wb"
        ) as file:  # given a path, torch writes its name into the file: equal runs would differ
            torch.save(contents, file)


def read_checkpoint(path: str | Path) -> tuple[ModelSpec, dict[str, Any]]:
    """Spec and raw contents of a checkpoint; nothing in the file is executed."""
    path = Path(path)
    if not path.is_file():
        raise PspnetError(f"cannot read checkpoint {path}: it is no file. Make one with `pspnet train`")
    try:
        raw = contents_of(path)
    except Exception as error:
        raise PspnetError(_refusal(path, error)) from error
    if not isinstance(raw, dict) or not isinstance(raw.get("spec"), str) or not _is_state(raw.get("model")):
        raise PspnetError(
            f"{path} is a PyTorch file of another kind: a checkpoint of `pspnet train` is needed "
            "(ImageNet weights go to `pspnet train --weights FILE`)"
        )
    raw["model"] = {_current_name(name): tensor for name, tensor in raw["model"].items()}
    return ModelSpec.from_json(raw["spec"]), raw


def _refusal(path: Path, error: Exception) -> str:
    if path.suffix == ".onnx":
        return (
            f"{path} is an ONNX file, not a checkpoint (.pt), which is needed here. evaluate, verify, bench, run and "
            "inspect take it as it is, another tool's as a guest (docs/guests.md)"
        )
    try:
        return f"{path} is not a whole checkpoint ({reason_of_refusal(path, error)}). Make one with `pspnet train`"
    except OSError as unreadable:
        return f"cannot read checkpoint {path}: {unreadable.strerror}. Make one with `pspnet train`"


def _current_name(name: str) -> str:
    """Checkpoints from before there were several aux heads call the one on stage 3 "aux_head"."""
    return f"aux_heads.3.{name.removeprefix('aux_head.')}" if name.startswith("aux_head.") else name


def _is_state(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(tensor, Tensor) for tensor in value.values())


def load_model(path: str | Path) -> tuple[ModelSpec, PSPNet]:
    """Spec and model in eval mode, on the CPU in float32."""
    spec, raw = read_checkpoint(path)
    return spec, model_from_state(spec, raw["model"], path)


def model_from_state(spec: ModelSpec, state: dict[str, Tensor], path: str | Path) -> PSPNet:
    """The model of `spec` with the weights of `state`, which may be stored as float16; `path` is for the error."""
    model = PSPNet(spec)
    if broken := [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]:
        raise PspnetError(
            f"{path}: {broken[0]} holds NaN or infinity ({len(broken)} tensors do). Use another checkpoint"
        )
    if broken := [name for name, value in state.items() if name.endswith(".running_var") and (value < 0).any()]:
        raise PspnetError(
            f"{path}: {broken[0]} holds {float(state[broken[0]].min()):.3g}: a variance of batch norm is never "
            f"negative ({len(broken)} tensors hold such). Use another checkpoint"
        )
    try:
        model.load_state_dict({name: v.float() if v.is_floating_point() else v for name, v in state.items()})
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:200]
        raise PspnetError(f"{path}: weights and spec do not belong together: {detail}") from error
    return model.eval()


def replace_spec(spec: ModelSpec, **changes: Any) -> ModelSpec:
    """A copy of `spec` with some fields changed, checked again."""
    return dataclasses.replace(spec, **changes)
