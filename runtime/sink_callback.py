"""Records for a function of the user's."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

from pspnet.errors import PspnetError
from runtime.outlet import Sink
from runtime.record import Record


class CallbackSink(Sink):
    """Calls `function` with every record, INVALID ones included, in the outlet's thread.

    It may keep a record, and must not write into its arrays. What it raises degrades this outlet alone.
    """

    wants = frozenset({"picture"})

    def __init__(self, function: Callable[[Record], None]) -> None:
        self._function = function

    def __call__(self, record: Record) -> None:
        """Hand on one record."""
        self._function(record)


def callback_from_text(text: str) -> Callable[[Record], None]:
    """The function of "module:function", where the module is looked for in the current folder, too."""
    module_name, _, name = text.partition(":")
    if not module_name or not name.isidentifier():
        raise PspnetError(f"callback is {text!r}: write MODULE:FUNCTION, for example brake:on_record")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        function = getattr(importlib.import_module(module_name), name, None)
    except ImportError as error:
        raise PspnetError(f"callback {text}: {error}. Run in the folder of the module, or install it") from error
    if not callable(function):
        raise PspnetError(f"callback {text}: {module_name} has no function {name}")
    return function
