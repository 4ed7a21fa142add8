"""Handles interruptions while a command is being loaded: it exits at once, with one line.

Imports only modules that are built into the interpreter.
"""

import _signal  # type: ignore[import-not-found]
import posix
import sys

_ENDING = (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP)


def guard_loading() -> None:
    """Make termination signals end the process at once; ignored signals stay ignored."""
    for number in _ENDING:
        if _signal.getsignal(number) in (_signal.SIG_DFL, _signal.default_int_handler):
            _signal.signal(number, _end)


def end_guard() -> None:
    """Restore Python's default signal handlers."""
    for number in _ENDING:
        if _signal.getsignal(number) is _end:
            _signal.signal(number, _signal.default_int_handler if number == _signal.SIGINT else _signal.SIG_DFL)


def _end(number: int, frame: object) -> None:
    command = sys.argv[0].rpartition("/")[2]
    posix.write(2, f"{command}: interrupted\n".encode())
    posix._exit(128 + number)


if sys.argv[0].rpartition("/")[2].startswith("tsv-"):  # a console script that has just started
    guard_loading()
