"""Ctrl-C, `kill` and a closed terminal end the demo, whatever it is doing at that instant."""

from __future__ import annotations

import os
import signal

import pytest

from harvest_brain.ops.demo import SIGNALS, Interruption


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_interrupts_once_and_the_next_one_does_not_disturb(number: signal.Signals) -> None:
    with Interruption() as interruption:
        interruption.check()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        with pytest.raises(KeyboardInterrupt):
            interruption.check()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_python_swallows_is_not_lost() -> None:
    class Ended:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGHUP)

    with Interruption() as interruption:
        Ended()
        with pytest.raises(KeyboardInterrupt):
            interruption.check()


def test_what_was_done_at_a_signal_before_is_done_again_afterwards() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with Interruption():
        assert all(signal.getsignal(number) is not old for number, old in zip(SIGNALS, before, strict=True))
    assert [signal.getsignal(number) for number in SIGNALS] == before
