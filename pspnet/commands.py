"""What the verbs do that run, measure and report; everything heavy is imported inside the verb."""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path

from pspnet.errors import PspnetError
from pspnet.files import new_folder, write_json
from pspnet.outputs import check_outputs
from pspnet.wording import counted


def run_files(args: argparse.Namespace) -> None:
    """Write the labels of every frame of files and folders as a folder, a video or JSON lines."""
    from pspnet.geometry import region_from_text
    from runtime.pipeline import segment_stream
    from runtime.runner import open_runner
    from runtime.segmenters import segmenting
    from runtime.sink import check_outside, open_sinks
    from runtime.source import open_sources

    outputs = [output for output in (args.output, args.video, args.jsonl, args.json) if output]
    check_outside(args.output, args.json)
    files = [path for path in (args.video, args.jsonl, args.json) if path]
    check_outputs([args.artefact, *args.sources], files, [args.output] if args.output else [])
    if args.output:
        new_folder(args.output, "-o")
    if not outputs:
        raise PspnetError("run needs an output: give -o DIR, --video FILE.webm, --jsonl FILE or --json FILE")
    region = region_from_text(args.region) if args.region else None
    with (
        open_sources(args.sources) as source,
        open_runner(args.artefact, args.engine, args.threads, args.pin) as opened,
        segmenting(opened, args.fit, region) as segmenter,
    ):
        runner = segmenter.runner
        licence = runner.spec.licence or "not stated"
        note = f"labels predicted by {Path(args.artefact).name}; its training data: {licence}"
        sinks = open_sinks(args.output, args.video, args.jsonl, runner.spec, note, source.fps, args.alpha)
        summary = segment_stream(source, segmenter, sinks, limit=args.limit)
    summary |= {"source": source.name, "artefact": Path(args.artefact).name}
    summary |= {"engine": runner.engine, "precision": runner.precision, "provenance": runner.provenance or None}
    if segmenter.without_kernels:
        summary["without_kernels"] = segmenter.without_kernels
    if args.json:
        write_json(args.json, summary)
    service = summary["service_ms"]
    print(
        f"{counted(summary['frames'], 'frame')}, {summary['throughput_fps']:.1f} FPS, service p50 "
        f"{service['p50']:.1f} ms, p99 {service['p99']:.1f} ms ({runner.engine}, {runner.precision}): "
        f"{', '.join(outputs)}"
    )


def bench(args: argparse.Namespace) -> None:
    """Measure several artefacts in one interleaved run."""
    from contextlib import ExitStack

    from pspnet.dataset import open_dataset
    from runtime.bench_report import print_table, stamped
    from runtime.benchmark import add_pictures, add_scores, benchmark, open_candidates, pictures_folder

    if not (args.source or args.data):
        raise PspnetError("bench needs frames: give --source CLIP, FOLDER or PHOTO, or --data DIR for mIoU too")
    if args.pictures < 0:
        raise PspnetError(f"pictures is {args.pictures}: give --pictures 0 or more")
    if args.pictures and not args.json:
        raise PspnetError("--pictures are written beside the figures: give --json FILE too")
    if args.pictures:
        check_outputs([], [], [pictures_folder(Path(args.json))])
    dataset = open_dataset(args.dataset, args.data, args.split) if args.data else None
    source = args.source or str(dataset.images[0].parent)  # type: ignore[union-attr]
    with ExitStack() as stack:
        candidates, threads = open_candidates(stack, args.artefacts, args.engine, args.threads, args.fit)
        result = benchmark(candidates, source, args.rounds, args.frames, threads)
        if dataset:
            add_scores(result, candidates, dataset)
        if args.pictures:
            add_pictures(result, candidates, source, args.pictures, Path(args.json))
    result = stamped(result)
    print_table(result)
    if args.json:
        write_json(args.json, result)


def demo(args: argparse.Namespace) -> None:
    """Run the whole road on the images and the clip in this repository."""
    from pspnet.demo import demo as run

    run(Path(args.output))


def report(args: argparse.Namespace) -> None:
    """Draw bench files as one HTML page."""
    from pspnet.report import write_report

    count = write_report(args.benches, args.output)
    print(f"{args.output}: {counted(count, 'candidate')}; open it in any browser")


def inspect(args: argparse.Namespace) -> int:
    """Print what is inside an artefact, or what --target would not like in it; 1 where that would refuse it."""
    from pspnet import describe
    from pspnet.artefact_commands import say

    if args.target:
        from export import lint

        findings = lint.lint_file(args.artefact, args.target)
    if Path(args.artefact).suffix == ".pt":
        from pspnet.checkpoint import read_checkpoint

        facts = describe.facts_of_checkpoint(args.artefact, *read_checkpoint(args.artefact))
    elif Path(args.artefact).suffix == ".engine":
        from runtime.passport import Passport, passport_path
        from runtime.preflight import refusal_for_rights

        passport = Passport.load(passport_path(describe.checked_file(args.artefact)))
        fields, refusal = dataclasses.asdict(passport), refusal_for_rights(args.artefact)
        facts = describe.facts_of_engine(args.artefact, passport.model_spec, fields, refusal)
    else:
        facts = describe.facts_of(args.artefact)
    shown = {name: facts[name] for name in lint.HEAD if name in facts} if args.target else facts
    lines = [describe.text_of(shown)]
    if args.target:
        lines += ["", lint.text_of(findings, args.target)]
        facts["lint"] = lint.facts_of(findings, args.target)
    if args.json:
        write_json(args.json, facts)
    say("\n".join(lines))
    return int(bool(args.target) and lint.is_refused(findings))


def doctor(args: argparse.Namespace) -> None:
    """Print what this machine can do, where a missing library is no failure, or with --data what a data set holds."""
    from pspnet import doctor as examine
    from runtime import cuda_report, tensorrt_report

    if args.data:
        return _doctor_data(args)
    if args.output or args.dataset != "auto":
        raise PspnetError("-o and --dataset are for a data set: give --data DIR too")
    lines = [*examine.checks(), *tensorrt_report.checks(), *cuda_report.checks()]
    print(examine.report(lines))
    if args.json:
        write_json(args.json, {"machine": examine.machine(), "checks": [dataclasses.asdict(line) for line in lines]})


def _doctor_data(args: argparse.Namespace) -> None:
    from pspnet.dataset_page import chosen_pairs, contact_sheet
    from pspnet.doctor_data import examine
    from pspnet.doctor_text import facts_of, text_of
    from pspnet.image import write_image
    from runtime.overlay import blend, legend

    if args.pictures < 1:
        raise PspnetError(f"pictures is {args.pictures}: give --pictures 1 or more")
    page = _page(args.output or "doctor.png")
    check_outputs([args.data], [page, *filter(None, [args.json])])
    report = examine(args.dataset, args.data)
    print(text_of(report))
    if args.json:
        write_json(args.json, facts_of(report))
    if chosen := chosen_pairs(report, args.pictures):
        write_image(page, contact_sheet(report, chosen, blend, legend))
        fewer = ", all that can be read" if len(chosen) < args.pictures else ""
        print(f"overlays of {counted(len(chosen), 'pair')}{fewer}: {page}")
    if faults := report.faults():
        text = f"{counted(faults, 'finding')} must be fixed: see the lines that begin with fault"
        raise PspnetError(f"{args.data}: {text}")


def _page(output: str) -> Path:
    """The PNG that doctor draws; `output` may name its folder."""
    page = Path(output)
    if page.is_dir() or output.endswith(os.sep) or not page.suffix:
        return page / "doctor.png"
    if page.suffix.lower() != ".png":
        raise PspnetError(f"overlays {page} must end in .png, or be a folder for doctor.png. Change -o")
    return page
