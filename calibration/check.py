"""The gate behind calibrate: the INT8 file against the float one on held-out pictures and in time, said aloud."""

from __future__ import annotations

from typing import Any

import onnx

from calibration import confirm
from calibration.choose import figures
from calibration.confirm import Judges
from calibration.score import AGREEMENT, MIOU, Judge, Score
from calibration.search import Budget
from calibration.timing import NOT_MEASURED, SIMULATION, interleaved
from pspnet.wording import counted

WORSE = {MIOU: 0.3, AGREEMENT: 5.0}
"""Points that INT8 may lose without a warning: of mIoU, and of labels that equal FP32's, most of them at borders."""


def checked(
    model: onnx.ModelProto, int8: onnx.ModelProto, judges: Judges, budget: Budget | None = None, quiet: bool = False
) -> dict[str, Any]:
    """ "held_out", "speed" and "warnings" of an INT8 graph against the float one, for the metadata and `text_of`.

    Scored by the final judge. budget: of the search, beyond which a loss is warned of; None for WORSE. "speed" is "not
    measured" where the engine only simulates INT8.
    """
    judge = judges.final
    score = judge.score(int8, "INT8")
    warnings = _worse(judge, score) if budget is None else over_budget(judges, score, budget)
    losses = judge.class_losses(score)
    worst = max(losses, key=lambda name: losses[name])
    held_out = {
        **judge.facts(), "int8": score.value, "loss_interval": judge.loss_interval(score),
        **{name: value for name, value in figures(judge, score).items() if name != "value"},
        "worst_class": {"name": worst, "loss": losses[worst]}, "choice": judges.facts(),
    }  # fmt: skip
    speed: Any = NOT_MEASURED
    if judge.engine != SIMULATION:
        variants = {"float": model, "int8": int8}
        times = interleaved(variants, judge.pictures.inputs, judge.engine, judge.threads, quiet=quiet)
        ratio = times.ratio_to_first["int8"]
        speed = {"float_ms": times.ms["float"], "int8_ms": times.ms["int8"], "int8_to_float": ratio, **times.facts()}
        if ratio["median"] > 1:
            warnings.append(
                f"INT8 is slower than float here: {times.ms['int8']['median']:.1f} ms against "
                f"{times.ms['float']['median']:.1f} ms on {times.engine}. Use the float file on this machine"
            )
    return {"held_out": held_out, "speed": speed, "warnings": warnings}


def over_budget(judges: Judges, score: Score, budget: Budget) -> list[str]:
    """A warning for each limit that a score of the final judge exceeds, or of which its pictures tell nothing."""
    judge = judges.final
    where = counted(len(judge.pictures), "held-out image") + (" unseen by the search" if judges.confirms else "")
    more = "Search with more pictures (--held-out)"
    return [
        f"over budget on {where}: {line}. {more}, or repair the network first" for line in budget.missed(judge, score)
    ] + [f"the floor of {name} is not confirmed: none of {where} holds it. {more}" for name in budget.unjudged(judge)]


def _worse(judge: Judge, score: Score) -> list[str]:
    limit = WORSE[judge.figure]
    if judge.loss(score) <= limit:
        return []
    return [
        f"INT8 is worse than float: {judge.figure} {score.value:.2f} % against {judge.baseline.value:.2f} % on "
        f"{counted(len(judge.pictures), 'held-out image')}, {limit:g} points may be lost. Try "
        "--equalise --bias-correction, and --finetune 2 beside them where that is not enough"
    ]


def text_of(check: dict[str, Any]) -> str:
    """What `checked` found as two or three lines, and a line for each warning."""
    held_out, speed = check["held_out"], check["speed"]
    worst, (low, high) = held_out["worst_class"], held_out["loss_interval"]
    lines = [
        f"held out: {held_out['figure']} {held_out['int8']:.2f} % against {held_out['float']:.2f} % in float, a loss "
        f"of {held_out['loss']:.2f} (95 % interval over pictures {low:.2f} to {high:.2f}; most: {worst['name']}, "
        f"{worst['loss']:.2f}), {held_out['agreement']:.2f} % equal labels, {counted(held_out['images'], 'image')} of "
        f"{held_out['source']}, {held_out['engine']}"
    ]
    lines += filter(None, [confirm.text_of(held_out["choice"])])
    if speed == NOT_MEASURED:
        lines.append("speed: not measured, because ONNX Runtime only simulates INT8 (OpenVINO and TensorRT do not)")
    else:
        ratio = speed["int8_to_float"]
        lines.append(
            f"speed: {speed['int8_ms']['median']:.2f} ms against {speed['float_ms']['median']:.2f} ms in float, "
            f"{1 / ratio['median']:.2f} times as fast ({1 / ratio['high']:.2f} to {1 / ratio['low']:.2f}), network "
            f"alone on {speed['engine']}"
        )
    return "\n".join([*lines, *warning_lines(check)])


def warning_lines(summary: dict[str, Any]) -> list[str]:
    """The warnings of a summary as lines to print."""
    return [f"WARNING: {warning}" for warning in summary.get("warnings", [])]
