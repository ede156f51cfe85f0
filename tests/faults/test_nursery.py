"""The daemons of the fault machine: who was killed from here, and who ended by itself."""

from __future__ import annotations

import os
import signal
import threading

from tests.faults.nursery import Daemon, Nursery
from tests.support.waiting import wait_until

NOWHERE = {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": "1"}


def test_a_daemon_that_is_killed_from_here_never_looks_as_if_it_ended_by_itself(nursery: Nursery) -> None:
    for _ in range(5):
        daemon = Daemon(nursery, NOWHERE)
        daemon.start()
        killer = threading.Thread(target=daemon.kill)
        killer.start()
        while daemon.is_running:
            pass
        killer.join()
        assert not daemon.has_ended_by_itself
        daemon.discard()


def test_a_daemon_that_ends_by_itself_is_noticed_for_good(nursery: Nursery) -> None:
    daemon = Daemon(nursery, NOWHERE)
    daemon.start()
    os.kill(daemon.pid, signal.SIGKILL)
    wait_until(lambda: not daemon.is_running, what="its end")
    daemon.start()
    assert daemon.has_ended_by_itself
    daemon.discard()
