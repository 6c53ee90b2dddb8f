"""Enumerations as pybind11 makes them, with each version's members."""

from __future__ import annotations

from types import ModuleType
from typing import Any, ClassVar

from . import enum_tables


class Enumeration:
    """A member is no int: `1 << member` raises TypeError, `int(member)` and `member == other_member` work.

    The class has `__members__`, cannot be iterated, and `Class(number)` gives the member of that number.
    """

    __slots__ = ("_number",)
    __members__: ClassVar[dict[str, Enumeration]] = {}

    def __init__(self, value: Any) -> None:
        self._number = int(value)

    @property
    def name(self) -> str:
        return next((name for name, member in type(self).__members__.items() if member == self), "???")

    @property
    def value(self) -> int:
        return self._number

    def __int__(self) -> int:
        return self._number

    def __index__(self) -> int:
        return self._number

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._number == int(other)  # type: ignore[call-overload]

    def __lt__(self, other: Any) -> bool:
        return self._ordered(other) and self._number < int(other)

    def __le__(self, other: Any) -> bool:
        return self._ordered(other) and self._number <= int(other)

    def __gt__(self, other: Any) -> bool:
        return self._ordered(other) and self._number > int(other)

    def __ge__(self, other: Any) -> bool:
        return self._ordered(other) and self._number >= int(other)

    def _ordered(self, other: Any) -> bool:
        if type(self) is not type(other):
            raise TypeError("Expected an enumeration of matching type!")
        return True

    def __str__(self) -> str:
        return f"{type(self).__name__}.{self.name}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__}.{self.name}: {self._number}>"


def enumeration(name: str, members: dict[str, int]) -> type[Enumeration]:
    """The class `tensorrt.<name>` with these members, in this order."""
    made = type(name, (Enumeration,), {"__slots__": (), "__module__": "tensorrt"})
    made.__members__ = {member: made(number) for member, number in members.items()}
    for member, value in made.__members__.items():
        setattr(made, member, value)
    return made


def add_enumerations(trt: ModuleType, generation: int) -> None:
    """Put every enumeration of this major version, and the short names of the data types, into the module."""
    for name, versions in enum_tables.tables().items():
        if generation in versions:
            setattr(trt, name, enumeration(name, versions[generation]))
    for short, member in enum_tables.SHORT_DATA_TYPES.items():
        if member in trt.DataType.__members__:
            setattr(trt, short, trt.DataType.__members__[member])
    trt.DataType.itemsize = property(lambda this: enum_tables.ITEM_SIZES.get(this.name))
