"""What float16 changes: the simulated graph against the float32 one, and how near its values come to overflow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from export.agreement import Agreement, percent
from export.parity import MAP_BAND, batches, relative_error
from pspnet.errors import PspnetError
from pspnet.spec import ModelSpec
from runtime.fp16_simulation import FP16_LARGEST, first_overflow, largest_magnitudes, simulated
from runtime.ort import session_from_model


def prove_half(graph: onnx.ModelProto, half: onnx.ModelProto, spec: ModelSpec, pictures: list[Path]) -> dict[str, Any]:
    """Compare `half`, simulated, with `graph` on the pictures of `parity.prove`; PspnetError where a value overflows.

    "magnitudes": the largest |value| of each constant and each layer of the float32 graph; "largest" names the worst.
    """
    plain, simulation = session_from_model(graph), simulated(half)
    rounded = session_from_model(simulation)
    agreement, errors, magnitudes = Agreement(spec.class_names, MAP_BAND), [], dict[str, float]()
    for images in batches(spec, pictures):
        expected, found = (session.run(["logits"], {"image": images})[0] for session in (plain, rounded))
        if not np.isfinite(found).all():
            raise PspnetError(f"this network overflows in fp16: {first_overflow(simulation, images)}. Leave out --fp16")
        errors.append(relative_error(found, expected))
        for one, other in zip(expected, found, strict=True):
            agreement.add(one.argmax(0).astype(np.uint8), other.argmax(0).astype(np.uint8))
        for name, value in largest_magnitudes(graph, images).items():
            magnitudes[name] = max(value, magnitudes.get(name, 0.0))
    largest = max(magnitudes, key=magnitudes.__getitem__)
    return {
        "method": "simulated in fp32 with every value rounded to fp16", "network_error": float(np.max(errors)),
        "argmax_agreement": agreement.share, "agreement": agreement.figures(), "limit": FP16_LARGEST,
        "largest": {"tensor": largest, "magnitude": magnitudes[largest]},
        "magnitudes": {name: float(f"{value:.5g}") for name, value in magnitudes.items()},
    }  # fmt: skip


def text_of(proof: dict[str, Any]) -> str:
    """The figures as one line to print."""
    largest = proof["largest"]
    return (
        f"simulated against fp32: network error {proof['network_error']:.1e} of the largest logit, arg-max agreement "
        f"{percent(proof['argmax_agreement'])} %; largest value {largest['magnitude']:.5g} of {proof['limit']:.0f} in "
        f"{largest['tensor']}"
    )
