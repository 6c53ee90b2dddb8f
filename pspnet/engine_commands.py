"""What the verb does that builds engines; everything heavy is imported inside it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pspnet.errors import PspnetError
from pspnet.files import passport_path, write_json
from pspnet.outputs import check_outputs


def build(args: argparse.Namespace) -> int:
    """Build an engine here or on a board; 1 where no engine keeps the limits that were set."""
    output = Path(args.output) if args.output else Path(args.model).with_suffix(".engine")
    if output.suffix != ".engine":
        raise PspnetError(f"output {output} must end in .engine, by which every command knows what it is. Change -o")
    from calibration.build_progress import ending_signals

    with ending_signals():
        if args.on:
            from calibration.remote import build_on

            code = build_on(args)
        else:
            code = _build_here(args, output)
    if code == 1 and output.exists():
        print(f"pspnet: {output} is still the earlier engine", file=sys.stderr)
    return code


def _build_here(args: argparse.Namespace, output: Path) -> int:
    from calibration.build import build as make
    from calibration.build_candidates import BuildChoice
    from calibration.build_check import Limits, PictureChoice
    from calibration.build_report import text_of
    from calibration.builder import BuildSettings

    written = [output, passport_path(output), *filter(None, [args.timing_cache, args.json])]
    check_outputs([args.model, *filter(None, [args.data])], written)
    settings = BuildSettings(
        args.batch, args.workspace, None, args.aux_streams, args.optimisation_level, args.tiling
    )  # fmt: skip
    choice = BuildChoice(
        args.precision, args.route, args.compare, args.low_memory, args.timing_cache, args.device, args.dla
    )  # fmt: skip
    pictures = PictureChoice(args.data, args.dataset, args.split, args.images)
    report = make(args.model, output, settings, choice, pictures, Limits(args.max_miou_drop, args.min_agreement))
    print(text_of(report))
    if args.json:
        write_json(args.json, report)
    for line in report["missed"]:
        print(f"pspnet: {line}", file=sys.stderr)
    return 1 if report["missed"] else 0
