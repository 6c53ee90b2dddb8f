"""What an artefact says about itself, as facts to print or to store as JSON."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

from pspnet import metadata
from pspnet.benchfile import read_bench
from pspnet.errors import PspnetError
from pspnet.files import read_json
from pspnet.guest import GuestSpec, guest_spec, spec_file
from pspnet.spec import ModelSpec

KINDS = (
    "a checkpoint (.pt), an ONNX file (.onnx), an engine (.engine), or what calibrate, build, bench, verify or "
    "evaluate wrote (.json)"
)
LISTED = 8
"""Of long lists, so many entries are printed; the JSON has all of them."""

Facts = dict[str, Any]


def facts_of(path: str | Path) -> Facts:
    """Everything that an ONNX file, or a JSON file of calibrate, build, bench, verify or evaluate says, "kind" first.

    PspnetError where the file is missing, damaged or of another kind. Checkpoints go to `facts_of_checkpoint`, engines
    to `facts_of_engine`.
    """
    path = checked_file(path)
    if path.suffix == ".onnx":
        return _onnx(path)
    raw = read_json(path, "file") if path.suffix == ".json" else None
    if isinstance(raw, dict) and raw.get("kind") == "calibration table":
        return _table(path, raw)
    if isinstance(raw, dict) and raw.get("kind") == "bench":
        return _bench(path)
    if isinstance(raw, dict) and raw.get("kind") == "verify":
        return _verify(path, raw)
    if isinstance(raw, dict) and {"miou", "per_class", "protocol"} <= set(raw):
        return {"kind": "evaluate", **_file(path), **raw}
    if isinstance(raw, dict) and raw.get("kind") in ("engine passport", "build"):
        return {"kind": raw.pop("kind"), **_file(path), **raw}
    raise PspnetError(f"{path} is of no kind that can be inspected: give {KINDS}")


def facts_of_checkpoint(path: str | Path, spec: ModelSpec, raw: dict[str, Any]) -> Facts:
    """The same for what `checkpoint.read_checkpoint` returned."""
    counts = [tensor.numel() for tensor in raw["model"].values() if tensor.is_floating_point()]
    return {
        "kind": "checkpoint", **_file(Path(path)), "weights": sum(counts), "tensors": len(raw["model"]),
        "types": sorted({str(tensor.dtype).removeprefix("torch.") for tensor in raw["model"].values()}),
        "contents": sorted(raw), "spec": _spec(spec),
    }  # fmt: skip


def facts_of_engine(path: str | Path, spec: ModelSpec, passport: dict[str, Any], refusal: str = "") -> Facts:
    """The same for an engine and the fields of its passport; TensorRT and the GPU are not asked.

    refusal: why loading refuses it for the rights on it, "" where it does not.
    """
    file, stated = _file(Path(path)), passport["plan_sha256"]
    others = {name: value for name, value in passport.items() if name not in ("plan_sha256", "plan_bytes", "spec")}
    same = file["sha256"] == stated and file["file_bytes"] == passport["plan_bytes"]
    other = f"no, it is of a plan with {passport['plan_bytes']} bytes and SHA-256 {stated}: the engine will be refused"
    fits = (f"yes, but the engine will be refused: {refusal}" if refusal else "yes") if same else other
    return {"kind": "engine", **file, "passport_fits": fits, **others, "spec": _spec(spec)}


def checked_file(path: str | Path) -> Path:
    """PspnetError where there is no ordinary file at `path`."""
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is no ordinary file" if path.exists() else "does not exist"
        raise PspnetError(f"{path} {what}: give {KINDS}")
    return path


def text_of(facts: Facts) -> str:
    """Facts as aligned lines; what is inside another fact is indented."""
    return "\n".join(_lines(facts, ""))


def _onnx(path: Path) -> Facts:
    model = metadata.read_model(path)
    entries = {entry.key: entry.value for entry in model.metadata_props}
    ours = {key.removeprefix(metadata.KEY) for key in entries if key.startswith(metadata.KEY)}
    return {
        "kind": "onnx", **_file(path),
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "ir_version": model.ir_version,
        "opset": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        "inputs": {value.name: _type(value) for value in model.graph.input},
        "outputs": {value.name: _type(value) for value in model.graph.output},
        "nodes": len(model.graph.node),
        "nodes_by_op": dict(Counter(node.op_type for node in model.graph.node).most_common()),
        "spec": _spec(metadata.spec_from_model(model, path)) if "spec" in ours else _guest(model, path),
        **{name: metadata.extra(model, name) for name in sorted(ours - {"spec"})},
        "other_metadata": {key: value for key, value in entries.items() if value and not key.startswith(metadata.KEY)},
    }  # fmt: skip


def _table(path: Path, raw: dict[str, Any]) -> Facts:
    amax, images = raw.get("amax"), raw.get("images")
    if not isinstance(amax, dict) or not isinstance(images, list | dict):
        raise PspnetError(
            f"{path} is a damaged calibration table: amax or images is missing. Run `pspnet calibrate` again"
        )
    others = {key: value for key, value in raw.items() if key not in ("kind", "amax", "images")}
    return {"kind": raw["kind"], **_file(path), **others, "tensors": len(amax), "image_count": len(images),
            "images": images, "amax": amax}  # fmt: skip


def _bench(path: Path) -> Facts:
    bench = read_bench(path)
    candidates = bench.pop("candidates")
    del bench["path"]
    return {
        "kind": bench.pop("kind"), **_file(path), **bench,
        "candidates": {
            c["name"]: {
                "sha256": c.get("sha256"), "network_size": c["network_size"], "fit": c["fit"],
                "throughput_fps": c["throughput_fps"], "service_ms": c["service_ms"],
                "miou": (c["scores"] or {}).get("miou"),
                "images": (c["scores"] or {}).get("protocol", {}).get("images"),
            }
            for c in candidates
        },
    }  # fmt: skip


def _verify(path: Path, raw: dict[str, Any]) -> Facts:
    artefacts, agreement = raw.get("artefacts"), raw.get("agreement")
    if not (isinstance(agreement, dict) and isinstance(artefacts, list) and len(artefacts) == 2):
        raise PspnetError(
            f"{path} is a damaged report of verify: artefacts or agreement is missing. Run `pspnet verify` again"
        )
    others = {key: value for key, value in raw.items() if key not in ("kind", "artefacts", "agreement")}
    return {
        "kind": raw["kind"], **_file(path), "agreement": agreement, **others,
        "artefact_a": artefacts[0], "artefact_b": artefacts[1],
    }  # fmt: skip


def _file(path: Path) -> Facts:
    return {"file": str(path), "file_bytes": metadata.stored_bytes(path), "sha256": metadata.artefact_sha256(path)}


def _guest(model: Any, path: Path) -> Facts | str:
    """The spec in the JSON file beside a file of another tool, or what that file lacks."""
    try:
        spec = guest_spec(model, path)
    except PspnetError as error:
        return f"none: {error}"
    return {"read_from": str(spec_file(path)), **_spec(spec)}


def _spec(spec: ModelSpec | GuestSpec) -> Facts:
    facts = dataclasses.asdict(spec)
    names, colours = facts.pop("class_names"), facts.pop("palette")
    if isinstance(spec, ModelSpec):
        facts["map_size"] = spec.map_size
        if not spec.has_stems:
            del facts["stem"]
    return {**facts, "classes": dict(zip(names, colours, strict=True))}


def _type(value: Any) -> str:
    return f"{metadata.type_of(value)} ({', '.join(map(str, metadata.shape_of(value)))})"


def _lines(facts: Facts, indent: str) -> list[str]:
    width = max(len(str(name)) for name in facts)
    lines = []
    shown = list(facts.items())
    if len(shown) > 3 * LISTED and indent:
        shown = shown[:LISTED]
    for name, value in shown:
        if isinstance(value, dict) and value and not (len(indent) > 2 and _is_flat(value)):
            lines += [f"{indent}{name}", *_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name!s:<{width}}  {_value(value)}".rstrip())
    return lines if len(shown) == len(facts) else [*lines, f"{indent}... and {len(facts) - len(shown)} more"]


def _is_flat(value: Facts) -> bool:
    return not any(isinstance(item, dict | list | tuple) for item in value.values())


def _value(value: Any) -> str:
    if isinstance(value, dict) and value:
        listed = ", ".join(f"{name} {_value(value[name])}" for name in list(value)[: 2 * LISTED])
        return listed + (f", ... and {len(value) - 2 * LISTED} more" if len(value) > 2 * LISTED else "")
    if isinstance(value, list | tuple):
        listed = ", ".join(
            str(item) if not isinstance(item, list | tuple) else f"({_value(item)})" for item in value[:LISTED]
        )
        return (listed or "-") + (f", ... and {len(value) - LISTED} more" if len(value) > LISTED else "")
    return "-" if value is None or value in ("", {}) else f"{value:.6g}" if isinstance(value, float) else str(value)
