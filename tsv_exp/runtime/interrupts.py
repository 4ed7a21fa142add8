"""SIGTERM (batch systems, torchrun) and SIGHUP (a closed terminal) stop a command as Ctrl-C does.

Has no slow imports: the handlers are installed before the rest of a command is loaded.
"""

import signal
import sys
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
