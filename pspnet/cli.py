"""The `pspnet` command line: the parser and the exit codes.

What the verbs take is in *_arguments, what they do in *commands.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from pspnet import artefact_arguments, training_arguments
from pspnet.errors import PspnetError
from pspnet.files import check_outputs

EXTRAS = {
    "torch": "train", "torchvision": "train", "torch_pruning": "train", "matplotlib": "train", "onnxscript": "export",
    "onnxsim": "export", "openvino": "cpu", "onnxruntime": "cpu", "cv2": "opencv",
}  # fmt: skip
"""Module -> the extra that brings it."""


INPUTS = ("artefact", "artefacts", "checkpoint", "model", "sources", "source", "init", "weights", "benches", "teacher")
OUTPUTS = ("output", "video", "jsonl", "json", "confusion", "save")
"""Arguments that name files which a command reads and writes."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, like all of ours."""

    def error(self, message: str) -> NoReturn:
        """Print the line and exit with 2."""
        self.exit(2, f"pspnet: {message}. See: {self.prog} --help\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 fine, 1 a gate was missed, 2 refused, 130 interrupted."""
    try:
        args = _parsed(arguments)
        check_outputs(_paths(args, INPUTS), _paths(args, OUTPUTS))
        from pspnet import artefact_commands, commands, compression_commands, training_commands

        modules = (training_commands, compression_commands, artefact_commands, commands)
        code = next(getattr(m, args.command) for m in modules if hasattr(m, args.command))(args) or 0
        sys.stdout.flush()
        return code
    except PspnetError as error:
        print(f"pspnet: {error}", file=sys.stderr)
    except ImportError as error:
        if (message := explain_missing(error)) is None:
            raise
        print(f"pspnet: {message}", file=sys.stderr)
    except KeyboardInterrupt:
        print("pspnet: interrupted; unfinished files have been removed, finished ones are kept", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output, such as head, has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # of the system, not of ours: a full disk, a file that went away
        print(f"pspnet: {error}", file=sys.stderr)
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
    verbs = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    training_arguments.add_train(verbs)
    training_arguments.add_evaluate(verbs)
    training_arguments.add_prune(verbs)
    artefact_arguments.add_export(verbs)
    artefact_arguments.add_verify(verbs)
    artefact_arguments.add_calibrate(verbs)
    artefact_arguments.add_run(verbs)
    artefact_arguments.add_bench(verbs)
    artefact_arguments.add_demo(verbs)
    artefact_arguments.add_report(verbs)
    artefact_arguments.add_inspect(verbs)
    artefact_arguments.add_doctor(verbs)
    return top


if __name__ == "__main__":
    sys.exit(main())
