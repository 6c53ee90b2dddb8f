"""What the verbs do that train, score, run and report; everything heavy is imported inside the verb."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

from pspnet.errors import PspnetError
from pspnet.files import write_json
from pspnet.recipe import TrainConfig
from pspnet.spec import size_from_text


def train(args: argparse.Namespace) -> None:
    """Train or fine-tune; writes best.pt and its company to the output folder."""
    from pspnet.dataset import open_dataset
    from pspnet.evaluate import evaluate as score
    from pspnet.initialise import model_from_checkpoint, new_model
    from pspnet.train import train as run
    from runtime.segmenter import CpuSegmenter
    from runtime.torch_runner import TorchRunner

    config = TrainConfig(**{f.name: getattr(args, f.name) for f in dataclasses.fields(TrainConfig)})
    dataset = open_dataset(args.dataset, args.data, "train")
    held_out = open_dataset(args.dataset, args.data, "val")
    output = Path(args.output)
    if any((output / name).exists() for name in ("best.pt", "last.pt")) and not args.resume:
        raise PspnetError(f"{output} holds a run: go on with --resume, or choose another folder with -o")
    size = size_from_text(args.size) if args.size else None
    if args.init:
        changes = {"output_stride": args.output_stride, "input_size": size, "fit": args.fit}
        changes = {name: value for name, value in changes.items() if value is not None}
        if args.backbone or args.bins or args.align_corners:
            raise PspnetError(
                "--init takes backbone, bins and align-corners from the checkpoint: leave those flags out"
            )
        spec, model = model_from_checkpoint(dataset, args.init, config.seed, **changes)
    else:
        spec, model = new_model(
            dataset, args.backbone or "mobilenet_v2", args.output_stride or 8, _bins(args.bins or "1,2,3,6"),
            size or dataset.read(0)[0].shape[:2], args.fit or "stretch", args.align_corners, args.weights, config.seed,
        )  # fmt: skip

    def validate(model: Any, spec: Any) -> dict[str, Any]:
        return score(CpuSegmenter(TorchRunner(model, spec)).labels, spec, held_out)

    try:
        result = run(model, spec, dataset, config, output, validate, args.resume)
    except KeyboardInterrupt:
        if (output / "last.pt").exists():
            print(f"every finished epoch is in {output}: go on with the same command and --resume", file=sys.stderr)
        raise
    print(f"best validation mIoU {result['best_val_miou']:.2f}: {result['checkpoint']}")
    if args.json:
        write_json(args.json, result)


def evaluate(args: argparse.Namespace) -> None:
    """Print and store the scores of one artefact on one split."""
    from pspnet.dataset import open_dataset
    from pspnet.evaluate import evaluate as score
    from pspnet.files import sha256_of
    from runtime.runner import open_runner
    from runtime.segmenter import CpuSegmenter

    dataset = open_dataset(args.dataset, args.data, args.split)
    with open_runner(args.artefact, args.engine, args.threads) as runner:
        scores = score(CpuSegmenter(runner, args.fit).labels, runner.spec, dataset, args.fit)
        scores["protocol"] |= {"engine": runner.engine, "precision": runner.precision}
        scores["protocol"] |= {"artefact": Path(args.artefact).name, "sha256": sha256_of(args.artefact)}
    for name, row in scores["per_class"].items():
        print(f"{name:>16}  IoU {row['iou']:6.2f}  precision {row['precision']:6.2f}  recall {row['recall']:6.2f}")
    print(
        f"mIoU {scores['miou']:.2f}  mAcc {scores['macc']:.2f}  pixel accuracy {scores['pixel_accuracy']:.2f}  "
        f"F1 {scores['f1']:.2f}  on {len(dataset)} images of {args.split} ({runner.engine}, {runner.precision})"
    )
    if args.json:
        write_json(args.json, scores)


def run(args: argparse.Namespace) -> None:
    """Write the labels of every frame as a folder, a video or JSON lines."""
    from pspnet.geometry import region_from_text
    from runtime.pipeline import segment_stream
    from runtime.runner import open_runner
    from runtime.segmenter import CpuSegmenter
    from runtime.sink import check_outside, open_sinks
    from runtime.source import open_sources

    outputs = [output for output in (args.output, args.video, args.jsonl, args.json) if output]
    check_outside(args.output, args.json)
    if not outputs:
        raise PspnetError("run needs an output: give -o DIR, --video FILE.webm, --jsonl FILE or --json FILE")
    region = region_from_text(args.region) if args.region else None
    with (
        open_sources(args.sources, args.realtime) as source,
        open_runner(args.artefact, args.engine, args.threads) as runner,
    ):
        licence = runner.spec.licence or "not stated"
        note = f"labels predicted by {Path(args.artefact).name}; its training data: {licence}"
        sinks = open_sinks(args.output, args.video, args.jsonl, runner.spec, note, source.fps, args.alpha)
        summary = segment_stream(source, CpuSegmenter(runner, args.fit, region), sinks, limit=args.limit)
    summary |= {"source": source.name, "artefact": Path(args.artefact).name}
    summary |= {"engine": runner.engine, "precision": runner.precision}
    if args.json:
        write_json(args.json, summary)
    service = summary["service_ms"]
    print(
        f"{summary['frames']} frames, {summary['throughput_fps']:.1f} FPS, service p50 {service['p50']:.1f} ms, "
        f"p99 {service['p99']:.1f} ms ({runner.engine}, {runner.precision}): {', '.join(outputs)}"
    )


def bench(args: argparse.Namespace) -> None:
    """Measure several artefacts in one interleaved run."""
    from contextlib import ExitStack

    from pspnet.dataset import open_dataset
    from runtime.bench_report import print_table, stamped
    from runtime.benchmark import add_pictures, add_scores, benchmark, open_candidates

    if not (args.source or args.data):
        raise PspnetError("bench needs frames: give --source CLIP, FOLDER or PHOTO, or --data DIR for mIoU too")
    if args.pictures < 0:
        raise PspnetError(f"pictures is {args.pictures}: give --pictures 0 or more")
    if args.pictures and not args.json:
        raise PspnetError("--pictures are written beside the figures: give --json FILE too")
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
    print(f"{args.output}: {count} candidate{'' if count == 1 else 's'}; open it in any browser")


def inspect(args: argparse.Namespace) -> None:
    """Print what is inside an artefact, and what --target would not like in it."""
    from pspnet import describe

    if args.target:
        from export import lint

        findings = lint.lint_file(args.artefact, args.target)
    if Path(args.artefact).suffix == ".pt":
        from pspnet.checkpoint import read_checkpoint

        facts = describe.facts_of_checkpoint(args.artefact, *read_checkpoint(args.artefact))
    else:
        facts = describe.facts_of(args.artefact)
    print(describe.text_of(facts))
    if args.target:
        print("\n" + lint.text_of(findings, args.target))
        facts["lint"] = lint.facts_of(findings, args.target)
    if args.json:
        write_json(args.json, facts)


def doctor(args: argparse.Namespace) -> None:
    """Print what this machine can do; a missing library is a finding, not a failure."""
    from pspnet import doctor as examine

    lines = examine.checks()
    print(examine.report(lines))
    if args.json:
        write_json(args.json, {"machine": examine.machine(), "checks": [dataclasses.asdict(line) for line in lines]})


def _bins(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise PspnetError(f"bins are {text!r}: write whole numbers with commas, for example 1,2,3,6") from None
