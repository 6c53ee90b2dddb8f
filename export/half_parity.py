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

ERROR_LIMIT = 0.1  # of the largest logit: rounding cost at most 0.011 in every network measured; ten times that is loss
AGREEMENT_WANTED = 0.99  # share of arg maxes: at least 0.998 in every network measured, trained or random
NEAR = 0.5  # of 65,504: a float32 value below this does not reach the limit by roundings of 2^-11


def prove_half(graph: onnx.ModelProto, half: onnx.ModelProto, spec: ModelSpec, pictures: list[Path]) -> dict[str, Any]:
    """Compare `half`, simulated, with `graph` on the pictures of `parity.prove`.

    "magnitudes": the largest |value| of each constant and each layer of the float32 graph; "largest" names the worst.
    PspnetError, with the tensor, where any value that the typed graph stores overflows, even if a Clip behind it makes
    it finite again: whether such a value is stored at all is up to the engine that fuses the two. PspnetError too where
    the logits are off by more than ERROR_LIMIT: values were lost, not rounded, small ones to 0 above all. Agreement
    below AGREEMENT_WANTED is only a "warning" (else None), since a network that is undecided about many cells loses
    them to correct rounding.
    """
    plain, simulation = session_from_model(graph), simulated(half)
    rounded = session_from_model(simulation)
    agreement, errors, magnitudes = Agreement(spec.class_names, MAP_BAND), [], dict[str, float]()
    for images in batches(spec, pictures):
        expected, found = (session.run(["logits"], {"image": images})[0] for session in (plain, rounded))
        reached = largest_magnitudes(graph, images)
        suspected = not np.isfinite(found).all() or max(reached.values()) > NEAR * FP16_LARGEST
        if suspected and (overflow := first_overflow(simulation, images)):
            raise PspnetError(f"this network overflows in fp16: {overflow}. Leave out --fp16")
        errors.append(relative_error(found, expected))
        for one, other in zip(expected, found, strict=True):
            agreement.add(one.argmax(0).astype(np.uint8), other.argmax(0).astype(np.uint8))
        for name, value in reached.items():
            magnitudes[name] = max(value, magnitudes.get(name, 0.0))
    if not (error := float(np.max(errors))) <= ERROR_LIMIT:
        raise PspnetError(
            f"fp16 changes this network: its logits are off by {error:.2g} of the largest, the limit is "
            f"{ERROR_LIMIT:g}, and {percent(agreement.share)} % of the arg maxes agree. Leave out --fp16"
        )
    largest = max(magnitudes, key=magnitudes.__getitem__)
    return {
        "method": "simulated in fp32 with every value rounded to fp16", "network_error": error,
        "argmax_agreement": agreement.share, "agreement": agreement.figures(), "limit": FP16_LARGEST,
        "largest": {"tensor": largest, "magnitude": magnitudes[largest]},
        "magnitudes": {name: float(f"{value:.5g}") for name, value in magnitudes.items()},
        "error_limit": ERROR_LIMIT, "agreement_wanted": AGREEMENT_WANTED, "warning": _warning(agreement.share),
    }  # fmt: skip


def text_of(proof: dict[str, Any]) -> str:
    """The figures as one line to print, and the warning, where there is one, as another."""
    largest, warning = proof["largest"], proof["warning"]
    return (
        f"simulated against fp32: network error {proof['network_error']:.1e} of the largest logit, arg-max agreement "
        f"{percent(proof['argmax_agreement'])} %; largest value {largest['magnitude']:.5g} of {proof['limit']:.0f} in "
        f"{largest['tensor']}"
    ) + (f"\nwarning: {warning}" if warning else "")


def _warning(agreement: float) -> str | None:
    if agreement >= AGREEMENT_WANTED:
        return None
    return (
        f"only {percent(agreement)} % of the arg maxes agree with fp32, {percent(AGREEMENT_WANTED, 0)} % or more are "
        "usual: hold the fp16 file against the fp32 one with `pspnet verify` before you use it"
    )
