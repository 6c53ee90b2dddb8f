"""The engines themselves: whether the one that is installed here opens a file, in its own words."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

from export.lint_checks import one_line
from export.lint_graph import Finding, at_tensor
from export.lint_targets import OPENVINO, ORT, Target
from pspnet.errors import is_out_of_memory

AT_RUN_TIME = ("not-finite", "fp16-range", "shapes")
"""Rules on what goes wrong when a file is run, on which an engine that opens it has no say: ONNX Runtime opens a
convolution whose weights have the wrong number of channels."""
NOISE = {
    ORT: re.compile(r"^(\[ONNXRuntimeError\] : \d+ : \w+ : )?(Load model from .*? failed:)?(/\S+\.cc:\d+ .*?\) )?"),
    OPENVINO: re.compile(
        r"Exception from \S+:\d+:|Check '.*?' failed at \S+:\d+:|FrontEnd API failed with \w+:|Loading input model|-- |"
        r"While validating node '.*?' with friendly_name '.*?':|Model wasn't fully converted\.( Failed .*? log:)?|"
        r"Summary:( -- Conversion is failed for: .*)?"
    ),
}
"""Of an engine's message, what is about its own source and steps, and about the path, which the user knows."""


def judged_by_engine(findings: list[Finding], path: str | Path, target: Target) -> list[Finding]:
    """The findings of the rules, and what the target's engine on this machine says to the file at `path`.

    Where it refuses the file, its message is one finding more. Where it opens it, what the rules thought that it
    would refuse becomes a note: the tables are of one version, and the engine's own word counts. TensorRT is not asked.
    """
    if target.family not in _ENGINES:
        return findings
    name, open_file = _ENGINES[target.family]
    try:
        version = open_file(str(path))
    except ImportError:
        text = f"{name} is not installed here, so only the tables were used: pip install 'pspnet-edge[cpu]'"
        return [*findings, at_tensor("note", "engine", "", text)]
    except Exception as error:  # ONNX Runtime raises several types without a common base
        if is_out_of_memory(error):
            raise
        text = f"{name} on this machine does not open the file: {_telling_part(str(error), target.family)}"
        return [*findings, at_tensor("refused", "engine", "", text)]
    text = f"{name} {version} on this machine opens the file"
    return [*(_outvoted(finding, name) for finding in findings), at_tensor("note", "engine", "", text)]


def _outvoted(finding: Finding, name: str) -> Finding:
    if finding.severity != "refused" or finding.rule in AT_RUN_TIME:
        return finding
    return dataclasses.replace(finding, severity="note", text=f"{finding.text} ({name} here opens it all the same)")


def _open_in_ort(path: str) -> str:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    options.add_session_config_entry("session.disable_prepacking", "1")  # the weights are not needed a second time
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return str(onnxruntime.__version__)


def _open_in_openvino(path: str) -> str:
    import openvino

    from runtime.openvino_runner import core

    # Compiled, not only read: reading finds unknown operators and shapes that contradict, but whether the CPU has code
    # for each of them shows here. It takes a second or two and the weights' size again.
    core().compile_model(path, "CPU", {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1})
    return str(openvino.__version__).split("-")[0]


def _telling_part(message: str, family: str) -> str:
    """What is wrong, in one line."""
    message = one_line(message, len(message))
    return one_line(NOISE[family].sub("", message)) or one_line(message)


_ENGINES: dict[str, tuple[str, Callable[[str], str]]] = {
    ORT: ("ONNX Runtime", _open_in_ort), OPENVINO: ("OpenVINO", _open_in_openvino),
}  # fmt: skip
"""Family -> the engine's name, and what opens a file in it and returns its version."""
