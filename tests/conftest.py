"""Fixtures of all tests."""

import gc
import logging
import os
import signal
from collections.abc import Generator, Iterator

import pytest

from tsv_exp.runtime.console import ConsoleHandler

# A look for GPUs that opens none: programs that are forks of a process that has opened one cannot use it.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")

# A shell ignores SIGINT for what it starts in the background, and nohup SIGHUP; commands under test would inherit that.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked `gpu` on a machine without one."""
    import torch  # which the process that hands tests out to others never needs

    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="this machine has no CUDA device"))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Without garbage collection, which takes a third of the time of large imports and frees nothing."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True)
def root_logger_as_it_was() -> Iterator[None]:
    """A command that a test runs in this process configures the root logger; the next test starts without that."""
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)
    for handler in [one for one in root.handlers if isinstance(one, ConsoleHandler)]:
        root.removeHandler(handler)
