"""Prints, as JSON, what the package `tensorrt_bindings` in the folder argv[1] has: run by `tests/tensorrt_bindings.py`.

"enums": class -> member -> number. "classes": class -> {"bases", "constructor", "members"}, a member being
{"kind": "method" | "property" | "value", "settable": bool, "calls": per overload [[argument, required], ...],
"returns": per overload a class}.
"functions": name -> the same "calls". "values": the other public names. "version": its `__version__`.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from typing import Any

CALL = re.compile(r"^(?:\d+\. )?\w+\((.*)\) -> (.*)$")


def main() -> None:
    sys.path.insert(0, sys.argv[1])
    trt = importlib.import_module("tensorrt_bindings")
    found: dict[str, Any] = {"version": trt.__version__, "enums": {}, "classes": {}, "functions": {}, "values": []}
    for name in sorted(set(dir(trt)) - {"tensorrt", "plugin"}):
        member = getattr(trt, name)
        if name.startswith("_") or type(member).__name__ == "module":
            continue
        if isinstance(member, type):
            add_class(found, name, member)
        elif callable(member) and not hasattr(type(member), "__members__"):
            found["functions"][name] = calls(member) or calls_of_python(member)
        else:
            found["values"].append(name)
    json.dump(found, sys.stdout)


def add_class(found: dict[str, Any], name: str, owner: type) -> None:
    if isinstance(getattr(owner, "__members__", None), dict):
        found["enums"][name] = {key: int(value) for key, value in owner.__members__.items()}
        return
    members: dict[str, Any] = {}
    for key in dir(owner):
        member = getattr(owner, key)
        if key.startswith("_") and key not in ("__len__", "__getitem__", "__str__", "__bool__", "__eq__", "__iter__"):
            continue
        if isinstance(member, type):
            add_class(found, f"{name}.{key}", member)
        elif isinstance(member, property):
            members[key] = {"kind": "property", "settable": member.fset is not None}
        elif callable(member) and not hasattr(type(member), "__members__"):
            members[key] = {"kind": "method", "calls": calls(member), "returns": returns(member)}
        else:
            members[key] = {"kind": "value"}
    constructors = calls(owner.__init__)
    bases = [base.__name__ for base in owner.__mro__[1:] if base.__name__ not in ("object", "pybind11_object")]
    found["classes"][name] = {"bases": bases, "constructors": constructors, "members": members}


def calls(function: Any) -> list[list[list[Any]]]:
    """The arguments of each overload, without self, from the docstring that pybind11 writes."""
    lines = [CALL.match(line.strip()) for line in (function.__doc__ or "").splitlines()]
    texts = [match[1] for match in lines if match and match[1] != "*args, **kwargs"]
    return [[argument(part) for part in split(text) if not part.startswith("self:")] for text in texts]


def returns(function: Any) -> list[str]:
    """The type that each overload returns, without its module."""
    lines = [CALL.match(line.strip()) for line in (function.__doc__ or "").splitlines()]
    return [re.split(r"\.|::", match[2])[-1] for match in lines if match and match[1] != "*args, **kwargs"]


def calls_of_python(function: Any) -> list[list[list[Any]]]:
    code = function.__code__
    return [[[name, True] for name in code.co_varnames[: code.co_argcount]]]


def argument(text: str) -> list[Any]:
    """[name, whether it must be given] of "flags: int = 0"."""
    return [text.split(":")[0].strip(), "=" not in text]


def split(text: str) -> list[str]:
    """Split at the commas that lie in no bracket."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[(<") - (letter in "])>")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


if __name__ == "__main__":
    main()
