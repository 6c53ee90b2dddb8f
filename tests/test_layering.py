"""Who may import whom, read from the source, and a command line that starts without anything heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("pspnet", "export", "calibration", "runtime")
WITH_TORCH = {
    "average", "backbone", "batch_norm", "checkpoint", "class_weights", "cpu_training", "distill", "distributed", "ema",
    "foreign_weights", "initialise", "loader", "losses", "model", "narrow", "prune", "run_log", "schedule",
    "torch_file", "train", "train_run", "train_state", "train_step", "transforms",
}  # fmt: skip
CALIBRATION_WITH_TORCH = {"finetune", "torch_graph"}
ANYTHING_INSIDE_FUNCTIONS = {
    "pspnet/cli.py",
    "pspnet/commands.py",
    "pspnet/artefact_commands.py",
    "pspnet/engine_commands.py",
    "pspnet/live_commands.py",
    "pspnet/training_commands.py",
    "pspnet/compression_commands.py",
    "pspnet/demo.py",
}
TORCH_FREE_PACKAGES = {"numpy", "cv2", "onnx", "tqdm"}
TORCH = {"torch", "torchvision", "torchaudio"}
HEAVY = {*TORCH, "numpy", "cv2", "onnx", "onnxruntime", "openvino", "numba", "matplotlib", "tqdm"}
MODULES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def imports(path: Path, inside_functions: bool = True) -> Iterator[str]:
    """Dotted names of the modules that a module imports: `pspnet.model` for `from pspnet import model`, too."""
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            inner = node.module in FOLDERS
            yield from (f"{node.module}.{alias.name}" if inner else str(node.module) for alias in node.names)
        if inside_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))


def needs_torch(name: str) -> bool:
    """Whether an imported name is torch or one of pspnet's modules that import it."""
    parts = name.split(".")
    return parts[0] in TORCH or (parts[0] == "pspnet" and len(parts) > 1 and parts[1] in WITH_TORCH)


def forbidden(path: Path) -> list[str]:
    """The imports of a module that the table of layers does not allow."""
    relative = path.relative_to(ROOT).as_posix()
    folder, name = relative.split("/")[0], path.stem
    if relative in ANYTHING_INSIDE_FUNCTIONS:
        allowed = {*sys.stdlib_module_names, "pspnet"}
        return [i for i in imports(path, inside_functions=False) if i.split(".")[0] not in allowed or needs_torch(i)]
    found = list(imports(path))
    others = set(FOLDERS) - {"pspnet": {"pspnet"}, "runtime": {"pspnet", "runtime"}}.get(
        folder, {"pspnet", "runtime", folder}
    )
    wrong = [i for i in found if i.split(".")[0] in others]
    if folder == "pspnet" and name not in WITH_TORCH:
        packages = {*sys.stdlib_module_names, *TORCH_FREE_PACKAGES, "pspnet"}
        wrong += [i for i in found if i.split(".")[0] not in packages or needs_torch(i)]
    may_use_torch = {"runtime": name.startswith("torch_"), "calibration": name in CALIBRATION_WITH_TORCH}
    if not may_use_torch.get(folder, True):
        wrong += [i for i in found if needs_torch(i)]
    return wrong


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_follow_the_table_of_layers(path: Path) -> None:
    assert not forbidden(path)


@pytest.mark.parametrize(
    ("target", "source", "caught"),
    [
        ("pspnet/geometry.py", "def f():\n    import torch\n", True),
        ("pspnet/geometry.py", "from pspnet.model import PSPNet\n", True),
        ("pspnet/geometry.py", "from runtime import labels\n", True),
        ("pspnet/geometry.py", "import cv2, json\nfrom pspnet.spec import IGNORE\n", False),
        ("pspnet/train.py", "import torch\nfrom pspnet import model\n", False),
        ("pspnet/train.py", "from export.exporter import export\n", True),
        ("pspnet/commands.py", "def f():\n    import torch\n    from export import exporter\n", False),
        ("pspnet/commands.py", "import torch\n", True),
        ("pspnet/commands.py", "class A:\n    from pspnet import model\n", True),
        ("runtime/ort.py", "from pspnet import checkpoint\n", True),
        ("runtime/ort.py", "import export.parity\n", True),
        ("runtime/torch_runner.py", "import torch\nfrom pspnet.checkpoint import load_model\n", False),
        ("calibration/collect.py", "from pspnet.loader import TrainPairs\n", True),
        ("calibration/collect.py", "from runtime.runner import Runner\n", False),
        ("calibration/finetune.py", "import torch\nfrom pspnet.transforms import PhotometricDistort\n", False),
        ("export/exporter.py", "import torch\nfrom pspnet.model import PSPNet\nimport runtime.labels\n", False),
        ("export/exporter.py", "from calibration import table\n", True),
    ],
)
def test_the_layer_test_finds_what_it_must(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, source: str, caught: bool
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / target
    path.parent.mkdir()
    path.write_text(source)
    assert bool(forbidden(path)) == caught


def loaded_by(code: str) -> set[str]:
    """Top-level packages that a fresh interpreter holds after `code`."""
    report = "import sys; sys.stderr.write(' '.join({m.split('.')[0] for m in sys.modules}))"
    guarded = f"try:\n    {code}\nexcept SystemExit as end:\n    assert not end.code\n{report}"
    done = subprocess.run([sys.executable, "-c", guarded], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stderr.split())


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["evaluate", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    loaded = loaded_by(f"from pspnet.cli import main; main({arguments!r})")
    assert "argparse" in loaded and not loaded & HEAVY


def test_evaluation_and_the_cpu_path_import_no_torch() -> None:
    loaded = loaded_by("import pspnet.evaluate, pspnet.dataset, runtime.runner, runtime.segmenter")
    assert "numba" in loaded and not loaded & TORCH


def test_no_module_is_longer_than_300_lines() -> None:
    long = {path.name: count for path in MODULES if (count := len(path.read_text(encoding="utf-8").splitlines())) > 300}
    assert not long
