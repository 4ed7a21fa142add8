"""Interruptions while a command is being loaded: nothing is under way yet, so that it ends at once, with one line.

Imports nothing but what the interpreter itself is made of.
"""

import _signal  # type: ignore[import-not-found]
import posix
import sys

_ENDING = (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP)


def guard_loading() -> None:
    """From now on a signal that asks the process to end does so; what is ignored stays ignored."""
    for number in _ENDING:
        if _signal.getsignal(number) in (_signal.SIG_DFL, _signal.default_int_handler):
            _signal.signal(number, _end)


def end_guard() -> None:
    """Signals do again what they do in any Python program."""
    for number in _ENDING:
        if _signal.getsignal(number) is _end:
            _signal.signal(number, _signal.default_int_handler if number == _signal.SIGINT else _signal.SIG_DFL)


def _end(number: int, frame: object) -> None:
    command = sys.argv[0].rpartition("/")[2]
    posix.write(2, f"{command}: interrupted\n".encode())
    posix._exit(128 + number)


if sys.argv[0].rpartition("/")[2].startswith("tsv-"):  # a console script, which has just begun
    guard_loading()
