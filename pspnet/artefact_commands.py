"""What the verbs do that write or compare artefacts; everything heavy is imported inside the verb."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pspnet.artefact_arguments import NOT_OF_RERANK, NOT_OF_TABLE
from pspnet.errors import PspnetError
from pspnet.files import write_json
from pspnet.outputs import check_outputs, check_suffix
from pspnet.spec import size_from_text

PROOF_PICTURES = 8
ARTEFACTS = {".pt": "a checkpoint", ".onnx": "an ONNX file", ".engine": "a TensorRT engine"}


def export(args: argparse.Namespace) -> None:
    """Write a proven ONNX file, or print the costs of --sizes."""
    if args.sizes is not None or args.cameras is not None:
        from export.sizes import print_sizes

        return print_sizes(args)
    from export import half_parity
    from export.exporter import export as write
    from export.exporter import half_path
    from export.parity import text_of
    from pspnet.dataset import open_pictures

    if not args.checkpoint:
        raise PspnetError("export needs a checkpoint: pspnet export best.pt (only --sizes goes without one)")
    output = args.output or "model.onnx"
    check_suffix(output, ".onnx")
    _check_proof_pictures(args)
    written = [output, half_path(output)] if args.fp16 else [output]
    check_outputs(filter(None, [args.checkpoint, args.data]), [*written, *filter(None, [args.json])])
    pictures: list[Path] = []
    if args.data:
        count = PROOF_PICTURES if args.images is None else args.images
        pictures = list(open_pictures(args.dataset, args.data, args.split or "val")[:count])
    size = size_from_text(args.size) if args.size else None
    proof = write(args.checkpoint, output, size, args.fit, pictures, args.head or "folded", args.fp16)
    print(f"{output}: {text_of(proof)}")
    if args.fp16:
        print(f"{half_path(output)}: {half_parity.text_of(proof['fp16'])}")
    if args.json:
        write_json(args.json, proof)


def _check_proof_pictures(args: argparse.Namespace) -> None:
    """PspnetError where flags on the pictures of the proof are wrong, or say nothing because there are none."""
    if args.images is not None and args.images < 0:
        raise PspnetError(f"images is {args.images}: give --images 0 or more")
    given = {"images": args.images, "split": args.split, "dataset": None if args.dataset == "auto" else args.dataset}
    if not args.data and (stray := [name for name, value in given.items() if value is not None]):
        raise PspnetError(f"--{stray[0]} chooses pictures of a data set: give --data DIR, or leave out --{stray[0]}")


def verify(args: argparse.Namespace) -> int:
    """Compare two artefacts on the same pictures; 1 where a limit is missed."""
    from export.verify import Limits, Pictures, text_of
    from export.verify import verify as compare
    from runtime.runner import open_runner

    limits, pictures = Limits(args.max_miou_drop, args.min_agreement), Pictures(args.data, args.dataset, args.split)
    if args.max_miou_drop is not None and not pictures.pairs:
        raise PspnetError(f"{args.data} has no labels, so there is no mIoU: leave out --max-miou-drop")
    if Path(args.output).suffix != ".png":
        raise PspnetError(f"heat map {args.output} must end in .png. Change -o")
    if Path(args.data).resolve() in Path(args.output).resolve().parents:
        raise PspnetError(f"heat map {args.output} lies in {args.data}, whose pictures are read: give another -o")
    paths = Path(args.artefacts[0]), Path(args.artefacts[1])
    engines = _engines(args.engine, paths)
    with (
        open_runner(paths[0], engines[0], args.threads) as a,
        open_runner(paths[1], engines[1], args.threads) as b,
    ):
        report = compare((a, b), paths, pictures, args.fit, args.output)
    report |= {"limits": dataclasses.asdict(limits), "missed": limits.missed(report)}
    if args.json:
        write_json(args.json, report)
    say(f"{text_of(report)}\nheat map of the differences: {args.output}")
    for line in report["missed"]:
        print(f"pspnet: {line}", file=sys.stderr)
    return 1 if report["missed"] else 0


def calibrate(args: argparse.Namespace) -> None:
    """Write an INT8 file and its table."""
    from calibration.calibrate import calibrate as write
    from calibration.calibrate import held_out_from_flags
    from calibration.mix import mix_from_flags
    from calibration.ranges import method_from_flags
    from calibration.repair import repairs_from_flags
    from calibration.summary import text_of

    model = Path(args.model)
    if not model.is_file():
        raise PspnetError(f"{model} is no file: give the ONNX file that `pspnet export` wrote")
    output = Path(args.output) if args.output else model.with_suffix(".int8.onnx")
    check_suffix(output, ".onnx")
    if args.engine in ("torch", "tensorrt"):
        raise PspnetError(f"calibrate compares ONNX files, which --engine {args.engine} does not run: leave it out")
    if args.rerank:
        return _rerank(args, model, output)
    if args.table:
        return _from_table(args, model, output)
    if not args.data:
        raise PspnetError("calibrate needs pictures: give --data with a data set, a folder of pictures or a clip")
    mix = mix_from_flags(args.sensitivity, args.max_miou_drop, args.class_floor, args.front, args.device)
    written = [*_artefacts(output, args.fp16), *filter(None, [args.json]), *(mix.outputs() if mix else [])]
    check_outputs([model, args.data], written)
    summary = write(
        model, output, args.data, args.dataset, args.split, args.images,
        *method_from_flags(args.method, args.percentile), args.force,
        held_out_from_flags(args.held_out, args.check, args.resamples, args.engine, args.threads),
        repairs_from_flags(
            args.equalise, args.bias_correction, args.finetune, args.finetune_lr, args.finetune_batch
        ),
        mix, args.fp16,
    )  # fmt: skip
    print(text_of(summary, output))
    if args.json:
        write_json(args.json, summary)


def _artefacts(output: Path, fp16: bool) -> list[Path]:
    """What calibrate writes: the graph, its table and, if asked for, its float16-typed twin."""
    from calibration.artefacts import table_path
    from runtime.fp16_typing import half_path

    return [output, table_path(output), *([half_path(output)] if fp16 else [])]


def _from_table(args: argparse.Namespace, model: Path, output: Path) -> None:
    """Write the INT8 file of a stored table, for which no pictures are read."""
    from calibration.calibrate import calibrate_from_table
    from calibration.summary import text_of

    _check_absent(args, NOT_OF_TABLE, "--table holds ranges that were measured already, and nothing is compared")
    written = [path for path in _artefacts(output, args.fp16) if path.resolve() != Path(args.table).resolve()]
    check_outputs([model, args.table], [*written, *filter(None, [args.json])])
    summary = calibrate_from_table(model, output, args.table, args.fp16)
    print(text_of(summary, output))
    if args.json:
        write_json(args.json, summary)


def _rerank(args: argparse.Namespace, model: Path, output: Path) -> None:
    """Write the INT8 file of the mix that is the fastest here, of a front that a search wrote."""
    from calibration.mix import json_path, rerank
    from calibration.summary import text_of

    _check_absent(args, NOT_OF_RERANK, "--rerank takes ranges, figures and budget from the front")
    front = json_path("front", args.front)
    plots = [front, front.with_suffix(".png")] if front else []
    check_outputs([model, args.rerank], [*_artefacts(output, args.fp16), *plots, *filter(None, [args.json])])
    summary = rerank(model, args.rerank, output, front, args.fp16, args.engine, args.threads)
    print(text_of(summary, output))
    if args.json:
        write_json(args.json, summary)


def _check_absent(args: argparse.Namespace, names: Sequence[str], reason: str) -> None:
    """PspnetError where one of the flags is given, which would say nothing."""
    if stray := next((name for name in names if getattr(args, name) != args.unset[name]), None):
        flag = "no-check" if stray == "check" and not args.check else stray.replace("_", "-")
        raise PspnetError(f"{reason}: leave out --{flag}")


def _engines(text: str, paths: tuple[Path, Path]) -> list[str]:
    """An engine for each of two artefacts; one name is for both."""
    from runtime.runner import ENGINES, ENGINES_OF, runs_on

    engines = text.split(",")
    if len(engines) > 2:
        raise PspnetError(f"engine is {text!r}: give one for both artefacts or two with a comma")
    known = [path for path in paths if path.suffix in ENGINES_OF]
    stray = next((path for path in known if not runs_on(path, text)), None)
    if stray and len(known) == 2 and text in ENGINES:
        own = ENGINES_OF[stray.suffix]
        pair = ",".join(text if runs_on(path, text) else ENGINES_OF[path.suffix][0] for path in paths)
        raise PspnetError(
            f"{stray} is {ARTEFACTS[stray.suffix]}, which runs on {' or '.join(own)}, not {text}: give --engine {pair}"
        )
    return [engines[0], engines[-1]]


def say(text: str) -> None:
    """Print, and go on where the reader has left: the exit code must still tell whether a limit was missed."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
