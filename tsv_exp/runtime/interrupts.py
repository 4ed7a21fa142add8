"""SIGTERM (batch systems, torchrun) and SIGHUP (a closed terminal) stop a command as Ctrl-C does.

Has no slow imports: the handlers are installed before the rest of a command is loaded.
"""

import atexit
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], Any]


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
    arrived: list[int] = []
    with _handled_by(lambda number, _: arrived.append(number)) as handlers:
        yield
    for first in arrived[:1]:
        handlers[signal.Signals(first)](first, None)


@contextmanager
def immediate() -> Iterator[None]:
    """Let signals end the process at once within the block: for a wait in a library that runs no handler."""
    with _handled_by(signal.SIG_DFL):
        yield


@contextmanager
def _handled_by(handler: Handler | signal.Handlers) -> Iterator[dict[signal.Signals, Handler]]:
    """Replace the handlers of signals within the block, and return them; change none outside the main thread."""
    main = threading.current_thread() is threading.main_thread()
    known = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if main}
    handlers = {number: own for number, own in known.items() if callable(own)}
    for number in handlers:
        signal.signal(number, handler)
    try:
        yield handlers
    finally:
        for number, own in handlers.items():
            signal.signal(number, own)


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
