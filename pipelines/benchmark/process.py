"""A measurement in a process of its own, so that its peak memory is its own."""

import multiprocessing
import resource
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Final, TypeVar

from dnamamba.errors import DnamambaError

Result = TypeVar("Result")
GRACE: Final = 10.0
"""Seconds in which a process that has answered may tidy up and end."""


def alone(
    function: Callable[..., Result], *arguments: object, timeout: float | None = None
) -> Result:
    """Call `function` in a new process and hand back what it returns.

    Parameters
    ----------
    function, arguments
        Importable by name, and pickled to the process.
    timeout
        Seconds after which the process is ended; None waits.

    Raises
    ------
    DnamambaError
        `timeout`, `out of memory`, that the system ended the process, or what it raised.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_call, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        if not receiver.poll(timeout):
            raise DnamambaError("timeout")
        outcome = receiver.recv()
        process.join(GRACE)
    except EOFError:
        raise DnamambaError("ended by the system, perhaps out of memory") from None
    finally:
        process.kill()
        process.join()
    if isinstance(outcome, DnamambaError):
        raise outcome
    return outcome  # type: ignore[no-any-return]


def _call(
    sender: Connection, function: Callable[..., object], arguments: tuple[object, ...]
) -> None:
    try:
        sender.send(function(*arguments))
    except MemoryError:
        sender.send(DnamambaError("out of memory"))
    except Exception as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        memory = "allocate memory" in str(error) or "out of memory" in str(error)
        sender.send(DnamambaError("out of memory" if memory else text))


def limit_memory(gib: float) -> None:
    """Make this process fail to allocate beyond `gib`, instead of filling the machine."""
    size = int(gib * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (size, size))
