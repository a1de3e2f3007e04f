"""Errors that a user can act on: what is wrong, where, and what to type next."""


class DnamambaError(Exception):
    """A failure whose message is one line for the user; the command exits with `exit_code`."""

    exit_code = 1


class InputError(DnamambaError):
    """A file or a sequence that cannot be used: names the file, the place and the cure."""


class CheckpointError(DnamambaError):
    """A model or a training state that cannot be loaded."""


class UsageError(DnamambaError, ValueError):
    """Arguments that do not fit together, or a value out of range."""

    exit_code = 2
