"""The `pspnet` command line: the parser and the exit codes.

What the verbs take is in *_arguments, what they do in *commands.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import re
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from pspnet import artefact_arguments, engine_arguments, live_arguments, training_arguments
from pspnet.errors import EndedBySignal, PspnetError, is_out_of_memory
from pspnet.outputs import check_outputs
from pspnet.spec import FITS, size_from_text

EXTRAS = {
    "torch": "train", "torchvision": "train", "torch_pruning": "train", "matplotlib": "train", "onnxscript": "export",
    "onnxsim": "export", "openvino": "cpu", "onnxruntime": "cpu", "cv2": "opencv",
    "starlette": "serve", "uvicorn": "serve", "prometheus_client": "serve",
}  # fmt: skip
"""Module -> the extra that brings it."""


INPUTS = (
    "artefact", "artefacts", "checkpoint", "checkpoints", "model", "sources", "source", "init", "weights", "benches",
    "teacher", "data", "unlabelled", "config", "list", "mask", "folder",
)  # fmt: skip
ADVICE = {
    errno.ENAMETOOLONG: "Give it a shorter name",
    errno.ENOSPC: "Free some space: df -h shows it",
    errno.EACCES: "Give yourself the right to it: ls -l shows who has it",
}
"""What to do about an error of the system."""
OUTPUTS = ("output", "video", "jsonl", "json", "confusion", "save")
"""Arguments that name what a command writes: files, but for FOLDERS and EITHER."""
EITHER = (("doctor", "output"), ("run", "video"))
"""A file or a folder, as the verb sees fit, which checks it itself."""
FOLDERS = {"train": "output", "run": "output", "demo": "output", "evaluate": "save"}
"""The argument of a verb that names a folder to write."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, like all of ours, and for which -8x8 is a value and no unknown flag."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._negative_number_matcher = re.compile(r"-\.?\d")

    def error(self, message: str) -> NoReturn:
        """Print the line and exit with 2."""
        self.exit(2, f"pspnet: {message}. See: {self.prog} --help\n")


class ShowVersion(argparse.Action):
    """--version, which looks the version up only when asked: every other command starts without it."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        """Print it and end."""
        from pspnet.wording import own_version

        print(f"pspnet-edge {own_version()}")
        parser.exit()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 fine, 1 a gate was missed, 2 refused, 128 + signal (130 Ctrl-C)."""
    args = argparse.Namespace()
    try:
        args = _parsed(arguments)
        _check_values(args)
        args.words = list(sys.argv[1:] if arguments is None else arguments)  # what a checkpoint says of its making
        folder = FOLDERS.get(args.command, "")
        files = [name for name in OUTPUTS if name != folder and (args.command, name) not in EITHER]
        check_outputs(_paths(args, INPUTS), _paths(args, files), _paths(args, [folder]))
        from pspnet import (
            artefact_commands,
            commands,
            compression_commands,
            engine_commands,
            live_commands,
            training_commands,
        )

        modules = (
            training_commands, compression_commands, artefact_commands, engine_commands, live_commands, commands
        )  # fmt: skip
        code = next(getattr(m, args.command) for m in modules if hasattr(m, args.command))(args) or 0
        sys.stdout.flush()
        return code
    except KeyboardInterrupt as stop:
        number = stop.number if isinstance(stop, EndedBySignal) else signal.SIGINT
        what = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
        with contextlib.suppress(OSError):  # of a terminal that is gone
            print(f"pspnet: {what}; unfinished files have been removed, finished ones are kept", file=sys.stderr)
        return 128 + number
    except BrokenPipeError:  # whoever read our output, such as head, has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if (message := explain(error, args)) is None:  # a bug of ours keeps its traceback
            raise
        print(f"pspnet: {message}", file=sys.stderr)
    return 2


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    try:
        return parser().parse_args(arguments)
    except SystemExit:
        sys.stdout.flush()  # a help text whose reader has left fails here, not at the interpreter's end
        raise


def _paths(args: argparse.Namespace, names: Sequence[str]) -> list[str]:
    values = [getattr(args, name, None) for name in names]
    return [path for value in values for path in (value if isinstance(value, list) else [value]) if path]


def _check_values(args: argparse.Namespace) -> None:
    """PspnetError for values that no verb takes, before any work."""
    for name, value in vars(args).items():
        if value == "" or (isinstance(value, list) and "" in value):
            raise PspnetError(f"{name} is empty: give it a value, or leave it out")
    if (fit := getattr(args, "fit", None)) is not None and fit not in FITS:
        raise PspnetError(f"fit is {fit!r}: choose one of {', '.join(FITS)} with --fit")
    if (alpha := getattr(args, "alpha", None)) is not None and not 0 <= alpha <= 1:
        raise PspnetError(f"alpha is {alpha:g}: it must be 0 (picture) to 1 (colours). Set it with --alpha")


def explain(error: Exception, args: argparse.Namespace) -> str | None:
    """One line for what is no bug of ours: bad input, too little memory, a missing package, the system; else None."""
    # A PspnetError's own words are better where it was raised on purpose, and not because of an engine's error.
    if is_out_of_memory(error.__cause__ if isinstance(error, PspnetError) else error):
        return _explain_memory(args)
    if isinstance(error, PspnetError):
        return str(error)
    if isinstance(error, ImportError):
        return explain_missing(error)
    if isinstance(error, OSError):  # a full disk, a file that went away
        named = f" {str(error.filename)[:80]}" if error.filename else ""
        advice = ADVICE.get(error.errno or 0, "Check the path and the disk, and try again")
        return f"the system refuses{named}: {error.strerror or error}. {advice}"
    return None


def _explain_memory(args: argparse.Namespace) -> str:
    """What asks for less memory, for each verb."""
    if args.command == "train":
        return "not enough memory to train: try a smaller --batch or --crop"
    size = getattr(args, "size", None)
    if size is None:
        less = "a smaller --size" if args.command == "export" else "a network exported for a smaller --size"
        return f"not enough memory for {args.command}: try {less}, or end other programs"
    height, width = (max(side // 2, 1) for side in size_from_text(size))
    return f"not enough memory for {args.command} at {size}: try --size {height}x{width}, or end other programs"


def explain_missing(error: ImportError) -> str | None:
    """One line that says how to install what an import lacked, or None where the cause is not a missing package."""
    if "libGL" in str(error) or "libgthread" in str(error) or "libglib" in str(error):
        return f"OpenCV needs system libraries ({error}). Install them with: apt-get install libgl1 libglib2.0-0"
    module = (error.name or "").split(".")[0]
    if isinstance(error, ModuleNotFoundError) and module in EXTRAS:
        return f"this command needs {module}. Install it with: pip install 'pspnet-edge[{EXTRAS[module]}]'"
    return None


def parser() -> argparse.ArgumentParser:
    """The parser of every verb."""
    top = Parser(prog="pspnet", description="PSPNet from training to driving cameras.")
    top.add_argument("--version", action=ShowVersion, nargs=0, help="print the version and end")
    verbs = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    training_arguments.add_train(verbs)
    training_arguments.add_evaluate(verbs)
    training_arguments.add_prune(verbs)
    training_arguments.add_average(verbs)
    training_arguments.add_weights(verbs)
    artefact_arguments.add_export(verbs)
    artefact_arguments.add_verify(verbs)
    artefact_arguments.add_calibrate(verbs)
    engine_arguments.add_build(verbs)
    live_arguments.add_run(verbs)
    live_arguments.add_soak(verbs)
    artefact_arguments.add_bench(verbs)
    artefact_arguments.add_demo(verbs)
    artefact_arguments.add_report(verbs)
    artefact_arguments.add_inspect(verbs)
    artefact_arguments.add_doctor(verbs)
    return top


if __name__ == "__main__":
    sys.exit(main())
