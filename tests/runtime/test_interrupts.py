import signal

import pytest

from tsv_exp.runtime.interrupts import Ended, immediate, unmasked


def clean_up_that_fails() -> None:
    try:
        raise Ended(15)
    finally:
        raise AttributeError("'NoneType' object has no attribute 'close'")


def test_an_interruption_is_not_hidden_by_a_failing_clean_up() -> None:
    with pytest.raises(Ended) as found, unmasked():
        clean_up_that_fails()
    assert found.value.number == 15


def test_other_errors_stay() -> None:
    with pytest.raises(AttributeError), unmasked():
        raise AttributeError from ValueError()


def test_signals_end_the_process_at_once_within_a_wait() -> None:
    before = signal.getsignal(signal.SIGINT)
    with immediate():
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is before
