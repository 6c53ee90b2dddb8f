"""Where our code uses TensorRT: every attribute, keyword and probe, found in the source with ast."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("calibration", "runtime", "pspnet")
# The house's names of TensorRT's objects, with or without a leading "self._": what `name.attribute` is looked up in.
CLASSES = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "inspector": "EngineInspector",
}
MODULE_NAMES = ("trt", "tensorrt")
# What a variable is that one of these calls was assigned to.
RETURNS = {
    ("OnnxParser", "get_error"): "ParserError",
    ("IBuilderConfig", "get_timing_cache"): "ITimingCache",
    ("IBuilderConfig", "create_timing_cache"): "ITimingCache",
    ("INetworkDefinition", "get_input"): "ITensor",
    ("INetworkDefinition", "get_output"): "ITensor",
    ("INetworkDefinition", "get_layer"): "ILayer",
    ("Builder", "build_serialized_network"): "IHostMemory",
}


@dataclass(frozen=True)
class Use:
    """One use at file:line. path: ("Builder", "create_network") or ("BuilderFlag", "FP16").

    arguments: (number of positional ones, names of keywords) of a call, None elsewhere. is_set: an assignment. probe:
    the name that hasattr, getattr with a default or `in __members__` asks for.
    """

    file: str
    line: int
    path: tuple[str, ...]
    arguments: tuple[int, tuple[str, ...]] | None = None
    is_set: bool = False
    probe: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {'.'.join(self.path)}"

    def fits(self, call: list[list[object]]) -> bool:
        """Whether these arguments suit an overload [[name, required], ...]."""
        assert self.arguments is not None
        count, keywords = self.arguments
        names = [name for name, _ in call]
        given = set(names[:count]) | set(keywords)
        needed = {name for name, required in call if required}
        return count <= len(names) and set(keywords) <= set(names[count:]) and needed <= given


def uses_of_product() -> list[Use]:
    """Every use in the files that get TensorRT's module."""
    found: list[Use] = []
    for path in sorted(path for folder in FOLDERS for path in (ROOT / folder).glob("*.py")):
        found += uses_in(str(path.relative_to(ROOT)), path.read_text())
    return found


def uses_in(file: str, text: str) -> list[Use]:
    """The uses in one source, of the module and of its objects; none where the module is not at hand."""
    tree = ast.parse(text)
    names = {name_of(node) for node in ast.walk(tree) if isinstance(node, (ast.Name, ast.arg))}
    if not names & set(MODULE_NAMES) and "tensorrt_module" not in text and not Path(file).stem.startswith("tensorrt"):
        return []
    found = [*probes(file, tree), *attributes(file, tree, CLASSES)]
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        made = assigned_objects(function)
        found += [use for use in attributes(file, function, made) if use.path[0] in made.values()]
    return found


def assigned_objects(function: ast.FunctionDef) -> dict[str, str]:
    """Variables of a function to which the result of a call in RETURNS was assigned, with their classes."""
    made: dict[str, str] = {}
    for node in ast.walk(function):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        if (
            isinstance(node, (ast.Assign, ast.NamedExpr))
            and isinstance(target, ast.Name)
            and isinstance(value, ast.Call)
        ):
            kind = RETURNS.get(path_of(value.func, CLASSES) or ())  # type: ignore[call-overload]
            if kind:
                made[target.id] = kind
    return made


def name_of(node: ast.AST) -> str:
    """`trt` of `trt`, `self._trt` and the argument `trt`; "" for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.arg):
        return node.arg
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
        return node.attr.removeprefix("_")
    return ""


def path_of(node: ast.AST, classes: dict[str, str]) -> tuple[str, ...] | None:
    """("BuilderFlag", "FP16") of `trt.BuilderFlag.FP16`, ("Builder", "create_network") of `builder.create_network`."""
    if not isinstance(node, ast.Attribute):
        return None
    name = name_of(node.value)
    if name in MODULE_NAMES:
        return (node.attr,)
    # `self.engine` is a word of our runners; TensorRT's is `self._engine`.
    if name in classes and (isinstance(node.value, ast.Name) or node.value.attr.startswith("_")):  # type: ignore
        return (classes[name], node.attr)
    inner = path_of(node.value, classes)
    return (*inner, node.attr) if inner is not None and inner[0][0].isupper() and len(inner) < 3 else None


def attributes(file: str, tree: ast.AST, classes: dict[str, str]) -> Iterator[Use]:
    """Attributes that are read, set or called; of a chain only the whole."""
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        path = path_of(node, classes)
        if path is None or (id(node) in inner and len(path) < 2):
            continue
        assert isinstance(node, ast.Attribute)
        call = calls.get(id(node))
        plain = call is not None and not any(isinstance(argument, ast.Starred) for argument in call.args)
        arguments = None
        if call is not None and plain and path[-1] != "__init__":
            arguments = len(call.args), tuple(keyword.arg or "**" for keyword in call.keywords)
        yield Use(file, node.lineno, path, arguments, isinstance(node.ctx, ast.Store))


def probes(file: str, tree: ast.AST) -> Iterator[Use]:
    """hasattr(x, "name"), getattr(x, "name", default) and "NAME" in x.__members__."""
    for node in ast.walk(tree):
        asked: ast.AST | None = None
        if isinstance(node, ast.Call) and name_of(node.func) in ("hasattr", "getattr"):
            if name_of(node.func) == "hasattr" or len(node.args) == 3:
                asked = node.args[1]
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.In, ast.NotIn)):
            right = node.comparators[0]
            if isinstance(right, ast.Attribute) and right.attr == "__members__":
                asked = node.left
        if isinstance(asked, ast.Constant) and isinstance(asked.value, str):
            yield Use(file, node.lineno, (asked.value,), probe=asked.value)
