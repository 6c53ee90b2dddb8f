"""What the verbs do that train and score; everything heavy is imported inside the verb."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pspnet.errors import PspnetError
from pspnet.files import write_json
from pspnet.recipe import RECIPES, TrainConfig, changed_settings, config_from_recipe
from pspnet.spec import size_from_text

SHOWN_PICTURES = 4
"""Validation pictures of TensorBoard: the same in every epoch, spread over the split."""


def train(args: argparse.Namespace) -> None:
    """Train or fine-tune; writes best.pt and its company to the output folder. torchrun starts it once per GPU."""
    if os.environ.get("RANK", "0") != "0":
        os.environ["TQDM_DISABLE"] = "1"  # tqdm reads it when it is imported
    from pspnet.distributed import joined

    with joined():
        _train(args)


def _train(args: argparse.Namespace) -> None:
    from pspnet import compression_commands as compression
    from pspnet.checkpoint import replace_spec
    from pspnet.distributed import rank
    from pspnet.provenance import made_with
    from pspnet.train import train as run

    taught = compression.check_distillation(args)
    dataset, held_out, division = _data_to_train(args)
    output = Path(args.output)
    if any((output / name).exists() for name in ("best.pt", "last.pt")) and not args.resume:
        raise PspnetError(f"{output} holds a run: go on with --resume, or choose another folder with -o")
    config = _settings(args, dataset)
    spec, model = model_to_train(args, dataset, config.seed)
    record = {"made_with": made_with(args)} | ({"hold_out": division.facts()} if division else {})
    spec = replace_spec(spec, recipe={**spec.recipe, **record})
    validate, draw = _validation(held_out)
    stack, distiller = ExitStack(), None
    if taught:
        dataset = compression.with_unlabelled_pictures(args, taught, dataset, output, division)
        distiller = compression.distiller_of(args, taught, spec, model, stack)
        spec = replace_spec(spec, recipe={**spec.recipe, **taught})
    try:
        with stack:
            _check_held_out(held_out, spec)
            result = run(model, spec, dataset, config, output, validate, args.resume, distiller, draw)
    except KeyboardInterrupt:
        if (output / "last.pt").exists() and rank() == 0:
            print(f"{output / 'last.pt'} is kept: go on with the same command and --resume", file=sys.stderr)
        raise
    gone = f"its weights are gone: {output / 'best.pt'} is missing, last.pt holds those of the last epoch"
    print(f"best validation mIoU {result['best_val_miou']:.2f}: {result['checkpoint'] or gone}")
    if args.json and rank() == 0:
        write_json(args.json, result)


def _data_to_train(args: argparse.Namespace) -> tuple[Any, Any, Any]:
    """Pairs to train on, pairs to validate on, and how --hold-out divides the training split (None without it)."""
    from pspnet.dataset import open_dataset
    from pspnet.dataset_held_out import check_unseen, hold_out

    dataset = open_dataset(args.dataset, args.data, "train")
    if not args.hold_out:
        return dataset, open_dataset(args.dataset, args.data, "val"), None
    division = hold_out(dataset, args.hold_out)
    if args.init:
        check_unseen(_spec_of(args.init), args.init, division, "begin with")
    if args.teacher:
        taught_by = _spec_of(args.teacher)
        check_unseen(taught_by, args.teacher, division, "let a teacher teach with")
        if not getattr(taught_by, "dataset", ""):
            print(f"note: teacher {args.teacher} does not say what it was trained on: it may know the held-out part")
    print(division.text())
    return division.rest, division.part, division


def _spec_of(artefact: str) -> Any:
    """The spec of a checkpoint, or of an ONNX file or engine."""
    from pspnet.checkpoint import read_checkpoint
    from runtime.runner import open_runner

    if Path(artefact).suffix == ".pt":
        return read_checkpoint(artefact)[0]
    with open_runner(artefact) as runner:
        return runner.spec


def _settings(args: argparse.Namespace, dataset: Any) -> TrainConfig:
    """The recipe's settings with the given flags in their place; prints what it expects and what was changed."""
    names = [f.name for f in dataclasses.fields(TrainConfig)]
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    size = dataset.read(0)[0].shape[:2]
    config, plain = (config_from_recipe(args.recipe, size, flags) for flags in (given, {}))
    if args.recipe:
        print(f"recipe {args.recipe}: {RECIPES[args.recipe].expects}")
    changed = changed_settings(dataclasses.asdict(plain), dataclasses.asdict(config))
    print(f"settings: {args.recipe or 'the defaults'}{', but ' if changed else ''}{', '.join(changed)}")
    return config


def _check_held_out(held_out: Any, spec: Any) -> None:
    """PspnetError for what would end the first validation, before hours of training; processes share the reading."""
    import torch

    from pspnet.distributed import share_of, summed
    from pspnet.evaluate import check_classes
    from pspnet.training_data import labelled_pairs, spread_indices

    check_classes(spec, held_out)
    indices = spread_indices(len(held_out))
    own = labelled_pairs(held_out, [indices[number] for number in share_of(len(indices))])
    if not int(summed(torch.tensor(own))) and len(indices) == len(held_out):
        raise PspnetError(
            f"no pixel of {held_out.root} ({held_out.split}) has a class: validation needs labelled pixels. See what "
            f"the label maps hold: pspnet doctor --data {held_out.root}"
        )


def _validation(held_out: Any) -> tuple[Any, Any]:
    """(validate, draw) of a training run: scores over all processes, and some pictures with labels and predictions."""
    import numpy as np
    import torch

    from pspnet.distributed import share_of, summed
    from pspnet.evaluate import confusion_of, scores_of
    from runtime.overlay import blend
    from runtime.segmenter import CpuSegmenter
    from runtime.torch_runner import TorchRunner

    shown = sorted({round(i) for i in np.linspace(0, len(held_out) - 1, SHOWN_PICTURES)})

    def validate(model: Any, spec: Any) -> dict[str, Any]:
        predict = CpuSegmenter(TorchRunner(model, spec)).labels
        matrix = confusion_of(predict, spec, held_out, share_of(len(held_out)))
        matrix.counts = summed(torch.from_numpy(matrix.counts)).numpy()
        return scores_of(matrix, spec, held_out)

    def draw(model: Any, spec: Any) -> dict[str, Any]:
        predict, pictures = CpuSegmenter(TorchRunner(model, spec)).labels, {}
        for index in shown:
            image, target = held_out.read(index)
            layers = [image, *(blend(image, labels, spec.palette, 0.7) for labels in (target, predict(image)))]
            pictures[held_out.images[index].stem] = np.concatenate(layers, 1)[..., ::-1]
        return pictures

    return validate, draw


def evaluate(args: argparse.Namespace) -> None:
    """Print and store the scores of one artefact on one split, with the pictures that are asked for."""
    from pspnet.corruptions import names_from_text
    from pspnet.dataset import open_dataset
    from pspnet.dataset_held_out import other_part
    from pspnet.files import new_folder
    from pspnet.inference import mode_from_text
    from pspnet.metadata import artefact_sha256
    from runtime import evaluation
    from runtime.runner import open_runner
    from runtime.sink import check_outside

    mode = mode_from_text(args.mode, args.scales, args.flip, args.crop, args.stride)
    corruptions = names_from_text(args.corruptions) if args.corruptions is not None else ()
    if args.worst < 0 or (args.worst and not args.save):
        raise PspnetError(f"--worst {args.worst}: give 0 or more, and the folder for the pictures with --save DIR")
    if args.confusion and Path(args.confusion).suffix != ".png":
        raise PspnetError(f"picture {args.confusion} must end in .png. Change --confusion")
    check_outside(args.save, args.json, args.confusion)
    if args.save:
        new_folder(args.save, "--save")
    if args.hold_out and args.split not in (None, "train"):
        raise PspnetError(f"--hold-out is a part of the training split: leave out --split {args.split}")
    split = args.split or ("train" if args.hold_out else "val")
    dataset, artefact = open_dataset(args.dataset, args.data, split), Path(args.artefact)
    with open_runner(artefact, args.engine, args.threads) as runner:
        spec = runner.spec
        division = _division(args, dataset, spec)
        dataset = division.part if division else dataset
        note = f"labels predicted by {artefact.name}; its training data: {spec.licence or 'not stated'}"
        scores, matrix = evaluation.score(runner, dataset, mode, args.fit, args.save, args.worst, note)
        if corruptions:
            scores["corruptions"] = evaluation.corruption_scores(runner, dataset, mode, corruptions, args.fit)
        if division:
            scores["protocol"]["hold_out"] = division.facts() | {"own": not other_part(spec, division)}
        scores["protocol"] |= {"engine": runner.engine, "precision": runner.precision}
        scores["protocol"] |= {"provenance": runner.provenance or None}
        scores["protocol"] |= {"artefact": artefact.name, "sha256": artefact_sha256(artefact)}
    print(evaluation.text_of(scores))
    if args.confusion:
        from pspnet.image import write_image
        from pspnet.score_pictures import confusion_picture

        caption = evaluation.caption_of(scores)
        write_image(args.confusion, confusion_picture(matrix, spec.class_names, spec.palette, caption))
    if args.json:
        write_json(args.json, {"kind": "evaluate", **scores})


def _division(args: argparse.Namespace, dataset: Any, spec: Any) -> Any:
    """How --hold-out divides the split that is scored, None without it; says where the artefact may know the part."""
    from pspnet.dataset_held_out import OWN, check_own_part, hold_out, other_part, own_rule, rule_of

    if not args.hold_out:
        return None
    rule = rule_of(spec, args.artefact) if args.hold_out == OWN else args.hold_out
    division = hold_out(dataset, rule)
    if args.hold_out == OWN:
        check_own_part(spec, args.artefact, division)
    elif why := other_part(spec, division):
        more = f" on this data ({why})" if own_rule(spec) == division.rule else ""
        print(
            f"note: {args.artefact} was not trained with --hold-out {division.rule}{more}: it may know these pictures"
        )
    return division


def weights(args: argparse.Namespace) -> None:
    """Print the shipped checkpoints; PspnetError where one is not the file that its card speaks of."""
    from pspnet import shipped

    rows = shipped.shipped(args.folder)
    if args.json:
        write_json(args.json, {"kind": "weights", "checkpoints": rows})
    print(shipped.text_of(rows, Path(args.folder or shipped.FOLDER)))
    shipped.check(rows)


def model_to_train(args: argparse.Namespace, dataset: Any, seed: int) -> tuple[Any, Any]:
    """Spec and model: of a checkpoint (--init), or new with --weights."""
    from pspnet.initialise import model_from_checkpoint, new_model

    size = size_from_text(args.size) if args.size else None
    align_corners = args.align_corners or None  # not given: the weights may know
    options = {
        "stem": args.stem, "dilation": args.dilation, "branch_channels": args.branch_channels,
        "head_channels": args.head_channels,
        "aux_stages": None if args.aux_stages is None else _numbers("aux-stages", args.aux_stages, "3,2 or none"),
    }  # fmt: skip
    bins = _numbers("bins", args.bins, "1,2,3,6 or none") if args.bins else None
    if bins == () and args.branch_channels is not None:
        raise PspnetError("--branch-channels is the width of the pyramid's branches: leave it out with --bins none")
    if not args.init:
        return new_model(
            dataset, args.backbone, args.output_stride, bins, size or dataset.read(0)[0].shape[:2], args.fit,
            align_corners, args.weights, seed, **options,
        )  # fmt: skip
    fixed = {"backbone": args.backbone, "bins": bins, "align_corners": align_corners, **options}
    if given := [name.replace("_", "-") for name, value in fixed.items() if value is not None]:
        raise PspnetError(f"--init takes the network from the checkpoint: leave out --{', --'.join(given)}")
    changes = {"output_stride": args.output_stride, "input_size": size, "fit": args.fit}
    return model_from_checkpoint(dataset, args.init, seed, **{k: v for k, v in changes.items() if v is not None})


def _numbers(flag: str, text: str, example: str) -> tuple[int, ...]:
    """Whole numbers with commas; "none" is none of them."""
    try:
        return () if text == "none" else tuple(int(part) for part in text.split(","))
    except ValueError:
        raise PspnetError(
            f"--{flag} is {text!r}: write whole numbers with commas, for example --{flag} {example}"
        ) from None
