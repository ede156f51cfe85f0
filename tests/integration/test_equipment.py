"""The equipment itself: it must be able to fail, and a server must come back on its port with its data."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from tests.support.engine import ROOT
from tests.support.server import DURABLE, ContainerServer, ProcessServer, RedisServer
from tests.support.waiting import wait_until


def run_marked_test(**environment: str) -> subprocess.CompletedProcess[str]:
    """Run the test below that needs a container, in a pytest of its own."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"{__file__}::test_a_test_that_needs_a_container"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.containers
def test_a_test_that_needs_a_container() -> None:
    """The subject of the two tests below."""


def test_where_no_container_can_run_the_tests_that_need_one_are_skipped_with_the_reason() -> None:
    done = run_marked_test(TEST_CONTAINERS_MISSING="no engine answers")
    assert done.returncode == 0
    assert "1 skipped" in done.stdout
    assert "no engine answers" in done.stdout


def test_where_containers_are_required_their_absence_is_a_failure() -> None:
    done = run_marked_test(TEST_CONTAINERS_MISSING="no engine answers", REQUIRE_CONTAINERS="1")
    assert done.returncode == 1
    assert "REQUIRE_CONTAINERS=1, but no engine answers" in done.stdout


def test_waiting_in_vain_fails_and_says_for_what() -> None:
    with pytest.raises(AssertionError, match="not within 0 s: the moon; last: False"):
        wait_until(lambda: False, 0.05, what="the moon")


@pytest.mark.parametrize("make", [pytest.param(ContainerServer, marks=pytest.mark.containers), ProcessServer])
def test_a_durable_server_comes_back_after_each_kind_of_end(make: Callable[..., RedisServer]) -> None:
    with make(DURABLE) as server:
        port = server.port
        client = server.client()
        for end in (server.kill, server.stop):
            client.incr("ends")
            end()
            server.start()
        assert server.port == port
        assert client.get("ends") == "2"
        server.pause()
        assert not server._answers()
        server.resume()
        assert client.get("ends") == "2"
