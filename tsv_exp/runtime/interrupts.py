"""SIGTERM (batch systems, torchrun) and SIGHUP (a closed terminal) end a command as Ctrl-C does.

Imports nothing that takes time: it is in force before the rest of a command is loaded.
"""

import signal
import sys
from types import FrameType


class Ended(KeyboardInterrupt):
    """The process was asked to end by a signal other than Ctrl-C's.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def catch_signals() -> None:
    """From now on SIGTERM and SIGHUP raise `Ended`; what is ignored (as under nohup) stays ignored."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _raise)


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
    return 128 + (interrupt.number if isinstance(interrupt, Ended) else signal.SIGINT)


def describe(interrupt: KeyboardInterrupt) -> str:
    """The beginning of the line that a command ends with."""
    return f"interrupted by {signal.Signals(interrupt.number).name}" if isinstance(interrupt, Ended) else "interrupted"


def end(command: str, interrupt: KeyboardInterrupt) -> int:
    """Say that a command was interrupted before it could say what is kept; its exit code is returned."""
    sys.stderr.write(f"{command}: {describe(interrupt)}\n")
    return exit_code(interrupt)


def _raise(number: int, frame: FrameType | None) -> None:
    for other in (signal.SIGTERM, signal.SIGHUP):  # a second one does not disturb the tidying up
        signal.signal(other, signal.SIG_IGN)
    raise Ended(number)
