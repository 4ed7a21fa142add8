"""SIGTERM (batch systems, torchrun) and SIGHUP (a closed terminal) stop a command as Ctrl-C does.

Has no slow imports: the handlers are installed before the rest of a command is loaded.
"""

import atexit
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Ended(KeyboardInterrupt):
    """The process received a termination signal other than SIGINT.

    Args:
        number: the signal's number.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def catch_signals() -> None:
    """Make SIGTERM and SIGHUP raise `Ended`; signals that are ignored (as under nohup) stay ignored."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _raise)


def ignore_at_exit() -> None:
    """Ignore signals once the interpreter shuts down: the work of the command is done then."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        atexit.register(signal.signal, number, signal.SIG_IGN)


@contextmanager
def postponed() -> Iterator[None]:
    """Handle signals that arrive within the block at its end; in other threads than the main one, change nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    handled = {number: handler for number, handler in handlers.items() if callable(handler)}
    arrived: list[int] = []
    for number in handled:
        signal.signal(number, lambda number, _: arrived.append(number))
    try:
        yield
    finally:
        for number, handler in handled.items():
            signal.signal(number, handler)
    for first in arrived[:1]:
        handled[signal.Signals(first)](first, None)


@contextmanager
def immediate() -> Iterator[None]:
    """Let signals end the process at once within the block: for a wait in a library that runs no handler."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number, handler in handlers.items():
        if callable(handler):
            signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def unmasked() -> Iterator[None]:
    """Raise a KeyboardInterrupt as such where it made the clean-up of a library fail with another error."""
    try:
        yield
    except Exception as error:
        inner: BaseException | None = error
        while inner is not None and not isinstance(inner, KeyboardInterrupt):
            inner = inner.__cause__ or inner.__context__
        if inner is not None:
            raise inner from None
        raise


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
    return 128 + (interrupt.number if isinstance(interrupt, Ended) else signal.SIGINT)


def describe(interrupt: KeyboardInterrupt) -> str:
    """The first words of the message about an interruption."""
    return f"interrupted by {signal.Signals(interrupt.number).name}" if isinstance(interrupt, Ended) else "interrupted"


def end(command: str, interrupt: KeyboardInterrupt) -> int:
    """Report that a command was interrupted during start-up; returns its exit code."""
    sys.stderr.write(f"{command}: {describe(interrupt)}\n")
    return exit_code(interrupt)


def _raise(number: int, frame: FrameType | None) -> None:
    for other in (signal.SIGTERM, signal.SIGHUP):  # a second signal does not interrupt the clean-up
        signal.signal(other, signal.SIG_IGN)
    raise Ended(number)
