"""The exceptions for a problem that the user can fix and for a signal, and the many faces of a memory that ran out."""

from __future__ import annotations

OUT_OF_MEMORY = (
    "not enough memory", "can't allocate memory", "cannot allocate memory", "failed to allocate", "out of memory",
    "insufficient memory", "bad_alloc", "failed to map segment",
)  # fmt: skip
"""What PyTorch, OpenCV, ONNX Runtime and OpenVINO say of it, each in an exception of its own."""


class PspnetError(Exception):
    """Bad input, or a proof that failed: one line that says what, got, needed, and the command or step that fixes it.

    The command line prints it on stderr without a traceback and exits with 2.
    """


class EndedBySignal(KeyboardInterrupt):
    """A signal asks the program to end, and it does so as after Ctrl-C. number: of the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an exception, or what it was raised from, says that memory ran out."""
    while error is not None:
        text = str(error).lower()
        if isinstance(error, MemoryError) or any(words in text for words in OUT_OF_MEMORY):
            return True
        error = error.__cause__ or error.__context__
    return False
