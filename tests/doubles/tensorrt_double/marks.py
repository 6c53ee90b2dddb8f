"""Marks for the templates, and making the objects whose classes have no constructor."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def only(*generations: int) -> Callable[[Function], Function]:
    """The member belongs to these major versions only."""

    def mark(function: Function) -> Function:
        function.generations = generations  # type: ignore[attr-defined]
        return function

    return mark


def create(trt: ModuleType, name: str, /, **state: Any) -> Any:
    """An object of a class that has no constructor, with this private state."""
    made = getattr(trt, name).__new__(getattr(trt, name))
    made._state = SimpleNamespace(**state)
    return made


def host_memory(trt: ModuleType, data: bytes) -> Any:
    """An IHostMemory with these bytes."""
    return trt.IHostMemory.__new__(trt.IHostMemory, data)


def value_property(name: str, kind: str, generations: tuple[int, ...] = (10, 11), read_only: bool = False) -> property:
    """A property that keeps a value in the private state."""

    def get(self: Any) -> Any:
        return getattr(self._state, name)

    def put(self: Any, value: Any) -> None:
        setattr(self._state, name, value)

    get.generations = generations  # type: ignore[attr-defined]
    put.__annotations__ = {"value": kind}
    put.__name__ = name
    return property(get, None if read_only else put)


def report(logger: Any, severity: str, message: str) -> None:
    """Hand a message to the caller's logger; what the logger raises goes to stderr, as through C++."""
    try:
        logger.log(getattr(logger._trt.ILogger.Severity, severity), message)
    except BaseException as error:
        print(f"[ERROR] Exception caught in log(): {error!r}", file=sys.stderr)
