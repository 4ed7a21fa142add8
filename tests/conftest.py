"""Fixtures of all tests."""

import logging
from collections.abc import Iterator

import pytest

from tsv_exp.runtime.console import ConsoleHandler


@pytest.fixture(autouse=True)
def root_logger_as_it_was() -> Iterator[None]:
    """A command that a test runs in this process configures the root logger; the next test starts without that."""
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)
    for handler in [one for one in root.handlers if isinstance(one, ConsoleHandler)]:
        root.removeHandler(handler)
