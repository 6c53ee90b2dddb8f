"""The one exception for a problem that the user can fix."""


class PspnetError(Exception):
    """Bad input, or a proof that failed: one line that says what, got, needed, and the command or step that fixes it.

    The command line prints it on stderr without a traceback and exits with 2.
    """
