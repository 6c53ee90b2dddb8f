"""The module `tensorrt` of one version, put together from the templates in this package.

A template is a plain class with the names and keywords of the real one. Members marked `@only(10)` or `@only(11)` are
left out of the other version, so that asking for them raises AttributeError as the real bindings do. Arguments are
checked as pybind11 checks them: a wrong type or keyword raises TypeError.
"""

from __future__ import annotations

import functools
import inspect
import operator
import sys
import types
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from . import builder, config, context, engine, enums, interfaces, network, parser

if TYPE_CHECKING:
    import pytest

VERSIONS = {"10.3.0": "10.3.0", "11.4.0": "11.4.0.106"}
SKIPPED = ("__module__", "__dict__", "__weakref__", "__firstlineno__", "__static_attributes__", "generations")
TEMPLATES = (interfaces, network, config, parser, builder, engine, context)


class Bound(type):
    """Metaclass of the double's classes: pybind11's two ways of refusing an instance."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        instance = super().__call__(*args, **kwargs)
        if not hasattr(instance, "_state"):
            base = next(base for base in cls.__mro__ if base.__module__ == "tensorrt")
            raise TypeError(f"tensorrt.{base.__name__}.__init__() must be called when overriding __init__")
        return instance


def install(monkeypatch: pytest.MonkeyPatch, version: str) -> ModuleType:
    """Make `import tensorrt` give the double of `version` ("10.3.0" or "11.4.0") until the test ends."""
    made = module(version)
    monkeypatch.setitem(sys.modules, "tensorrt", made)
    return made


def module(version: str) -> ModuleType:
    """A new module `tensorrt` with the surface of this version."""
    trt = ModuleType("tensorrt", __doc__)
    generation = int(version.split(".")[0])
    trt.__version__ = VERSIONS[version]  # type: ignore[attr-defined]
    enums.add_enumerations(trt, generation)
    for source in TEMPLATES:
        for name, member in vars(source).items():
            if name.startswith("_") or getattr(member, "__module__", None) != source.__name__:
                continue
            if name not in source.PUBLIC or not available(member, generation):
                continue
            if isinstance(member, type):
                setattr(trt, name, assembled(member, trt, generation))
            else:
                setattr(trt, name, checked(member, trt))
    return trt


def available(member: Any, generation: int) -> bool:
    """Whether a member marked with `only` belongs to this major version."""
    function = member.fget if isinstance(member, property) else member
    if isinstance(function, staticmethod):
        function = function.__func__
    return generation in getattr(function, "generations", (generation,))


def assembled(template: type, trt: ModuleType, generation: int) -> type:
    """The class of one version: its members, checked, and `_trt`, the module that it belongs to."""
    bases = tuple(getattr(trt, base.__name__, base) for base in template.__bases__ if base is not object)
    members: dict[str, Any] = {"_trt": trt, "__module__": "tensorrt"}
    for name, member in vars(template).items():
        if isinstance(member, (types.MemberDescriptorType, types.GetSetDescriptorType)):
            continue
        if name in SKIPPED or not available(member, generation):
            continue
        members[name] = checked(member, trt) if not name.startswith("_") or name == "__init__" else member
    if "__init__" not in members and not bases:
        members["__init__"] = no_constructor
    return Bound(template.__name__, bases, members)


def no_constructor(self: Any, *args: Any, **kwargs: Any) -> None:
    raise TypeError(f"tensorrt.{type(self).__name__}: No constructor defined!")


def checked(member: Any, trt: ModuleType) -> Any:
    """A function or property whose arguments are checked against its annotations."""
    if isinstance(member, property):
        setter = checked(member.fset, trt) if member.fset else None
        return property(member.fget, setter, member.fdel, member.__doc__)
    if not isinstance(member, types.FunctionType):
        return member
    signature = inspect.signature(member)
    accepts = {name: acceptance(str(kind), trt) for name, kind in member.__annotations__.items() if name != "return"}

    @functools.wraps(member)
    def call(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            default = signature.parameters[name].default
            if name in accepts and not (value is None and default is None) and not accepts[name](value):
                raise TypeError(f"{member.__name__}(): incompatible function arguments: {name}={value!r}")
        return member(*args, **kwargs)

    return call


def acceptance(annotation: str, trt: ModuleType) -> Callable[[Any], bool]:
    """Whether pybind11 would take a value where a template says `annotation`."""
    tests = [single_acceptance(part.strip(), trt) for part in annotation.split("|")]
    return lambda value: any(test(value) for test in tests)


def single_acceptance(annotation: str, trt: ModuleType) -> Callable[[Any], bool]:
    plain: dict[str, Callable[[Any], bool]] = {
        "Any": lambda value: True,
        "None": lambda value: value is None,
        "int": is_integer,
        "float": lambda value: isinstance(value, float) or is_integer(value),
        "bool": lambda value: value is None or hasattr(value, "__bool__"),
        "str": lambda value: isinstance(value, (str, bytes)),
        "tuple": lambda value: isinstance(value, tuple),
        "list": lambda value: isinstance(value, list),
        "Buffer": has_buffer,
        "Sequence[int]": lambda value: is_sequence(value) and all(is_integer(item) for item in value),
    }
    if annotation in plain:
        return plain[annotation]
    if annotation == "Dims":  # pybind11 converts a sequence of integers by itself
        return lambda value: isinstance(value, trt.Dims) or plain["Sequence[int]"](value)
    return lambda value: isinstance(value, functools.reduce(getattr, annotation.split("."), trt))  # type: ignore


def is_integer(value: Any) -> bool:
    """pybind11 never makes an int of a float."""
    try:
        operator.index(value)
    except TypeError:
        return False
    return True


def is_sequence(value: Any) -> bool:
    return isinstance(value, Iterable) and hasattr(value, "__getitem__") and not isinstance(value, (str, bytes, dict))


def has_buffer(value: Any) -> bool:
    try:
        memoryview(value)
    except TypeError:
        return False
    return True
