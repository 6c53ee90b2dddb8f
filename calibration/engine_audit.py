"""What TensorRT made of a graph, layer by layer: precisions, reformats, and Q/DQ that it did not fuse.

Read from the engine inspector's JSON, whose form changed: up to 10.x a tensor has "Format/Datatype" in words and the
engine "Bindings"; from 11.0 tensors have "Format" and "DataType", and the engine "I/O Tensors".
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from pspnet.errors import PspnetError
from pspnet.metadata import INPUT
from pspnet.wording import counted
from runtime.cuda import Device
from runtime.tensorrt_library import engine_log, tensorrt_module

TYPES = (
    ("int8", ("int8",)), ("fp16", ("fp16", "half", "float16")), ("bf16", ("bf16", "bfloat16")),
    ("fp8", ("fp8", "float8")), ("fp32", ("fp32", "float32", "float")),
    ("other", ("int32", "int64", "uint8", "bool", "int4")),
)  # fmt: skip
"""Precision -> how the inspectors spell it. "uint8" and "bfloat16" hold shorter ones, so words are looked up whole."""
TYPE_KEYS = ("DataType", "Datatype", "Format/Datatype", "Format", "Type")
"""Where a type is: of tensors in 11 and in 10, and of weights."""
MOVING = {"noop", "constant", "constantlayer", "shapehostload", "shuffle", "signal", "wait"}
"""Layers that compute nothing."""
COPIES = (" to nvm", " from nvm", " copy finish")
"""How names of copies between GPU and DLA end."""
FOREIGN = "{ForeignNode["  # what is compiled apart as one layer: for a DLA, or by Myelin for the GPU
CONVOLUTIONS = ("convolution", "conv", "gemmconvolution")
LISTED = 5


def inspector_json(
    plan: bytes, device: Device, batch: int, size: tuple[int, int], dla: int | None = None
) -> dict[str, Any]:
    """What the inspector says of a plan that was built here just now, for pictures of (height, width) `size`.

    A context with a batch is set, because otherwise types read "N/A due to dynamic shapes". dla: the core that it was
    built for.
    """
    trt = tensorrt_module()
    log = engine_log(trt)
    with device.current():
        runtime = trt.Runtime(log)
        if dla is not None:
            runtime.DLA_core = dla
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise PspnetError(f"TensorRT does not load the plan that it has just built: {log.reason()}. Build it again")
        context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        inspector = engine.create_engine_inspector()
        if context is not None and context.set_input_shape(INPUT, (batch, *size, 3)):
            inspector.execution_context = context
        text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
        del inspector, context, engine, runtime
    try:
        found = json.loads(text)
    except ValueError as error:
        raise PspnetError(f"the engine inspector gives no JSON: {error}. Build it again") from error
    return found if isinstance(found, dict) else {}


def audit(information: dict[str, Any]) -> dict[str, Any]:
    """The layers of an engine by type and by precision, and what costs time without computing anything.

    "reformats": layers that only change a tensor's layout or type. "standalone_qdq": quantisations and
    dequantisations that run as kernels of their own. "convolutions", "int8_convolutions": all, and those whose input
    is INT8. "dla_loadables": parts on a DLA; what is in them the inspector does not tell, so the other figures are of
    the GPU alone. "detailed": whether the inspector told types at all.
    """
    layers = [layer for layer in information.get("Layers", []) if isinstance(layer, dict)]
    computing = [layer for layer in layers if not (_moves(layer) or _reformats(layer) or _on_dla(layer))]
    convolutions = [layer for layer in computing if _is_convolution(layer)]
    standalone = [layer for layer in layers if _is_qdq(layer)]
    return {
        "detailed": bool(layers), "layers": len(information.get("Layers", [])),
        "by_type": dict(Counter(str(layer.get("LayerType", "unknown")) for layer in layers).most_common()),
        "by_precision": dict(Counter(precision_of(layer) for layer in computing).most_common()),
        "reformats": sum(_reformats(layer) and not _is_qdq(layer) for layer in layers),
        "standalone_qdq": len(standalone), "standalone_qdq_names": [_name(layer) for layer in standalone[:LISTED]],
        "convolutions": len(convolutions),
        "int8_convolutions": sum(precision_of(layer) == "int8" for layer in convolutions),
        "float_convolutions": [_name(layer) for layer in convolutions if precision_of(layer) != "int8"][:LISTED],
        "dla_loadables": sum(map(_on_dla, layers)), "io": _io(information),
    }  # fmt: skip


def nodes_on_gpu(information: dict[str, Any]) -> set[str]:
    """Names of the nodes of the graph that are part of a layer on the GPU which computes."""
    found: set[str] = set()
    for layer in (each for each in information.get("Layers", []) if isinstance(each, dict)):
        if not (_on_dla(layer) or _reformats(layer) or _moves(layer)):
            found |= {part.strip() for part in re.split(r" \+ | \|\| ", _name(layer))}
            found |= set(re.findall(r"\[ONNX Layer: ([^\]]+)\]", str(layer.get("Metadata", ""))))
    return found


def precision_of(layer: dict[str, Any]) -> str:
    """The precision in which a layer computes: that of its weights, or else of its first tensor with a fraction.

    INT8 weights count only where the input is INT8 too. "other" for layers on integers, "unknown" where the inspector
    does not tell.
    """
    inputs = [_type_of(tensor) for tensor in _tensors(layer, "Inputs")]
    found = [*inputs, *(_type_of(tensor) for tensor in _tensors(layer, "Outputs"))]
    weights = layer.get("Weights")
    kind = _type_of(weights) if isinstance(weights, dict) else "unknown"
    if kind != "unknown" and (kind != "int8" or {"int8", "unknown"} & set(inputs)):
        return kind
    return next((each for each in found if each not in ("other", "unknown")), found[0] if found else "unknown")


def text_of(facts: dict[str, Any]) -> str:
    """An audit as one line."""
    if not facts["detailed"]:
        return f"{counted(facts['layers'], 'layer')}, of which the inspector tells no more than the names"
    precisions = ", ".join(f"{count} {name}" for name, count in facts["by_precision"].items())
    loadables = facts.get("dla_loadables", 0)
    on_gpu = f"{counted(facts['layers'] - loadables, 'layer')}{' on the GPU' if loadables else ''} ({precisions})"
    parts = [on_gpu, counted(facts["reformats"], "reformat")]
    if facts["int8_convolutions"] or facts["standalone_qdq"]:
        parts.append(f"{facts['int8_convolutions']} of {counted(facts['convolutions'], 'convolution')} in INT8")
        parts.append(f"{facts['standalone_qdq']} stand-alone Q/DQ")
    if loadables:
        parts.append(f"{counted(loadables, 'part')} on the DLA, of which the inspector tells no more")
    return ", ".join(parts)


def _io(information: dict[str, Any]) -> list[str]:
    """Names of inputs and outputs, in either form."""
    tensors = information.get("I/O Tensors", information.get("Bindings", []))
    return [str(each.get("Name")) if isinstance(each, dict) else str(each) for each in tensors]


def _tensors(layer: dict[str, Any], side: str) -> list[dict[str, Any]]:
    return [tensor for tensor in layer.get(side, []) if isinstance(tensor, dict)]


def _type_of(tensor: dict[str, Any]) -> str:
    text = str(next((tensor[key] for key in TYPE_KEYS if key in tensor), ""))
    words = {word.strip(".,()[]").removeprefix("k").lower() for word in text.replace(":", " ").split()}
    return next((name for name, spellings in TYPES if words & set(spellings)), "unknown")


def _name(layer: dict[str, Any]) -> str:
    return str(layer.get("Name", "unnamed"))


def _kind(layer: dict[str, Any]) -> str:
    return str(layer.get("LayerType", "")).lower()


def _moves(layer: dict[str, Any]) -> bool:
    return _kind(layer) in MOVING or _name(layer).endswith(COPIES)


def _on_dla(layer: dict[str, Any]) -> bool:
    """Whether a layer is a part of the network on a DLA; Myelin names its parts alike, and they are on the GPU."""
    return _kind(layer) == "dla" or (_name(layer).startswith(FOREIGN) and "myelin" not in _kind(layer))


def _reformats(layer: dict[str, Any]) -> bool:
    return "reformat" in _kind(layer)


def _is_convolution(layer: dict[str, Any]) -> bool:
    kinds = _kind(layer).removeprefix("cask"), str(layer.get("ParameterType", "")).lower()
    return any(kind in CONVOLUTIONS for kind in kinds)


def _is_qdq(layer: dict[str, Any]) -> bool:
    """A layer of its own that changes between INT8 and float: said by its kind, its origin, or its name."""
    if _kind(layer) in ("quantize", "dequantize") or str(layer.get("Origin", "")).upper() == "QDQ":
        return True
    sides = [{_type_of(tensor) for tensor in _tensors(layer, side)} for side in ("Inputs", "Outputs")]
    changes = ("int8" in sides[0]) != ("int8" in sides[1])
    alone = _kind(layer) in ("scale", "reformat", "kgen", "pointwise", "pointwisev2", "myelin")
    operators = {part for part in str(layer.get("Metadata", "")).replace("[", " ").replace("]", " ").split()}
    named = any(word.lower().endswith(("quantizelinear", "_q", "_dq")) for word in (_name(layer), *operators))
    return alone and changes and (named or _kind(layer) == "scale") and " + " not in _name(layer)
