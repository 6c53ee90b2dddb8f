"""What `pspnet prune`, `average` and the teacher of `train` do; everything heavy is imported inside."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pspnet.errors import PspnetError
from pspnet.files import sha256_of, write_json
from pspnet.outputs import check_suffix
from pspnet.wording import counted

DISTILLATION = {"distill_weight": 3.0, "distill_temperature": 4.0, "distill_features": 0.0, "unlabelled_every": 10}
"""Default of every flag that says how a teacher teaches (TorchDistiller's weight and temperature for logits)."""

LARGEST = 1e6  # a larger weight or temperature is a slip of the keyboard


def prune(args: argparse.Namespace) -> None:
    """Write the pruned checkpoint and print what it costs."""
    from pspnet.prune import prune as run

    check_suffix(args.output, ".pt")
    facts = run(args.checkpoint, args.output, args.macs, args.method)
    (before, after), (weights_before, weights) = facts["multiply_adds"], facts["parameters"]
    height, width = facts["input_size"]
    print(
        f"{args.output}: {after / 1e9:.2f} of {before / 1e9:.2f} billion multiply-adds at {height}x{width} "
        f"({100 * facts['share_left']:.1f} %), {weights / 1e6:.2f} of {weights_before / 1e6:.2f} million parameters\n"
        f"its scores have fallen; fine-tune it: pspnet train --init {args.output} --data DIR -o DIR"
    )
    if args.json:
        write_json(args.json, facts)


def average(args: argparse.Namespace) -> None:
    """Write the mean of several runs' weights."""
    from pspnet.average import average as run

    check_suffix(args.output, ".pt")
    seeds = run(args.checkpoints, args.output)
    print(
        f"{args.output}: the mean of {counted(len(seeds), 'run')}, seeds {', '.join(map(str, seeds))}; score it: "
        f"pspnet evaluate {args.output} --data DIR"
    )


def check_distillation(args: argparse.Namespace) -> dict[str, Any]:
    """The settings of a teacher, as a run's record holds them; empty without one. PspnetError for stray flags."""
    given = [name for name in (*DISTILLATION, "unlabelled") if getattr(args, name) is not None]
    if not args.teacher:
        if given:
            flag = f"--{given[0].replace('_', '-')}"
            raise PspnetError(f"{flag} is for learning from a teacher: give --teacher best.pt, or leave {flag} out")
        return {}
    if args.unlabelled_every is not None and not args.unlabelled:
        raise PspnetError("--unlabelled-every is for the frames of a clip: give --unlabelled CLIP, or leave it out")
    if not Path(args.teacher).is_file():
        raise PspnetError(f"teacher {args.teacher} is no file: give a checkpoint (.pt) or an ONNX file")
    settings = {name: default if getattr(args, name) is None else getattr(args, name)
                for name, default in DISTILLATION.items()}  # fmt: skip
    for name, least in (("distill_weight", 0.0), ("distill_temperature", 1e-3), ("distill_features", 0.0)):
        if not least <= settings[name] <= LARGEST:
            flag = f"--{name.replace('_', '-')}"
            raise PspnetError(f"{flag} is {settings[name]:g}: it must be {least:g} to {LARGEST:g}")
    named = {"teacher": Path(args.teacher).name, "teacher_sha256": sha256_of(args.teacher)}
    return named | settings | {"unlabelled": Path(args.unlabelled).name if args.unlabelled else ""}


def distiller_of(args: argparse.Namespace, settings: dict[str, Any], spec: Any, model: Any, stack: ExitStack) -> Any:
    """The loss that a teacher adds to the training of `model`; a Runner that it needs is closed with `stack`."""
    from pspnet.distill import Distiller, checkpoint_teacher, runner_teacher

    if Path(args.teacher).suffix == ".pt":
        teacher: Any = checkpoint_teacher(args.teacher, spec)
    else:
        from runtime.runner import open_runner

        teacher = runner_teacher(stack.enter_context(open_runner(args.teacher)), args.teacher, spec)
    weights = (settings["distill_weight"], settings["distill_temperature"], settings["distill_features"])
    return Distiller(teacher, model, spec, *weights)


def with_unlabelled_pictures(
    args: argparse.Namespace, settings: dict[str, Any], dataset: Any, output: Path, division: Any = None
) -> Any:
    """`dataset` with the pictures of --unlabelled; of a clip, frames that are written to the output folder once.

    division: how --hold-out divides the training split; pictures that it holds out are left out, a clip of one of its
    held-out drives is refused.
    """
    from pspnet import unlabelled
    from pspnet.dataset_held_out import not_held_out

    if not args.unlabelled:
        return dataset
    source, every = Path(args.unlabelled), settings["unlabelled_every"]
    if source.is_dir():
        if args.unlabelled_every is not None:
            raise PspnetError(f"--unlabelled-every is for the frames of a clip, and {source} is a folder: leave it out")
        folder = source
    else:
        if division:
            _check_other_drive(source, division)
        folder = _frames_of_clip(source, every, output)
    pictures = unlabelled.pictures_of_folder(folder)
    if division and source.is_dir():
        given, pictures = pictures, not_held_out(pictures, division)
        if not pictures:
            raise PspnetError(
                f"--hold-out {division.rule} holds out every picture of {source}: give others with --unlabelled"
            )
        if left := len(given) - len(pictures):
            print(f"unlabelled: {counted(left, 'picture')} of {source} left out, as --hold-out {division.rule} says")
    print(f"unlabelled: {counted(len(pictures), 'picture')} of {source}")
    return unlabelled.with_unlabelled(dataset, pictures)


def _check_other_drive(clip: Path, division: Any) -> None:
    """PspnetError for a clip that bears the name of a held-out drive; frames cannot be told from pictures otherwise."""
    from pspnet.dataset_held_out import drive_of

    held = {name for name, counts in division.drives.items() if name and counts[2]}
    if drive := next((name for name in (clip.stem, drive_of(clip.stem)) if name in held), ""):
        raise PspnetError(
            f"{clip} is named as drive {drive}, of which --hold-out {division.rule} holds frames out: give a clip of "
            "another drive with --unlabelled"
        )
    print(f"note: frames of {clip} are not compared with the held-out pictures: it must be of another drive")


def _frames_of_clip(clip: Path, every: int, output: Path) -> Path:
    from pspnet.distributed import rank, wait_for_all
    from pspnet.unlabelled import folder_of_clip, write_frames
    from runtime.source import open_source

    if not clip.is_file():
        raise PspnetError(f"{clip} does not exist: give a folder of pictures or a clip with --unlabelled")
    folder = folder_of_clip(clip, output, every)
    if rank() == 0 and not folder.is_dir():
        with open_source(str(clip)) as source:
            write_frames((frame.bgr() for frame in source), folder, every)
    wait_for_all()
    return folder
