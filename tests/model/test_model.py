"""The commit protocol under every interleaving of two daemons within a ration of faults, and planted faults found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from harvest_brain.redis import store as product
from tests.faults import planted
from tests.model.explore import Explorer, Ration, World
from tests.model.instance import Instance
from tests.model.process import lots
from tests.model.server import client_of
from tests.support.server import ProcessServer


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with ProcessServer() as server:
        yield client_of(server.port)


@contextmanager
def planting(name: str) -> Iterator[None]:
    """A planted fault, until the end of the context."""
    before = {holder: dict(vars(holder)) for holder in (product, product.Store)}
    planted.plant(name)
    try:
        with lots():
            yield
    finally:
        for holder, values in before.items():
            for attribute, value in values.items():
                if vars(holder)[attribute] is not value:
                    setattr(holder, attribute, value)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", ["shadow", "live"])
@pytest.mark.parametrize(
    ("ration", "least_states"),
    [
        (Ration(cuts=2, throws=1), 8_000),
        (Ration(cuts=1, kills=1, forgets=1), 10_000),
        (Ration(cuts=1, expiries=1), 5_000),
        (Ration(kills=1, expiries=1), 4_000),
        (Ration(expiries=1, throws=1, forgets=1), 3_000),
    ],
    ids=str,
)
def test_nothing_is_twice_lost_or_behind_the_switch_whatever_the_interleaving(
    client: Any, mode: str, ration: Ration, least_states: int
) -> None:
    explorer = Instance(client, mode).explorer()
    breach = explorer.explore(ration)
    assert breach is None, breach
    # It went where it was meant to go.
    assert explorer.states >= least_states
    assert explorer.steps["rest produced"] > 0
    assert explorer.replies[b"ok"] > 0
    assert explorer.steps["cut"] > 0 or not ration.cuts
    assert explorer.steps["kill"] > 0 or not ration.kills
    assert explorer.steps["claims forgotten"] > 0 or not ration.forgets
    assert explorer.steps["COMMIT arrives late"] > 0 or not (ration.cuts or ration.kills)
    assert explorer.replies[b"cursor"] > 0 or not ration.cuts
    assert explorer.replies[b"lease"] > 0 or not ration.expiries
    assert explorer.replies[b"kill"] > 0 or not ration.throws
    assert len(explorer.outcomes) == 1 + bool(ration.throws)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["shadow", "live"])
@pytest.mark.parametrize(
    ("fault", "ration", "kind"),
    [
        ("dedup-before-publish", Ration(cuts=1), "outcome"),
        ("cursor-before-commit", Ration(kills=1), "outcome"),
        ("rungs-in-memory", Ration(kills=1, forgets=1), "outcome"),
        ("switch-checked-early", Ration(throws=1), "kill-switch"),
        ("unfenced", Ration(expiries=1), "fencing"),
    ],
)
def test_a_planted_fault_is_found_with_the_way_that_leads_to_it(
    client: Any, mode: str, fault: str, ration: Ration, kind: str
) -> None:
    instance = Instance(client, mode)
    with planting(fault):
        breach = instance.explorer(is_planted=True).explore(ration)
    assert breach is not None
    assert breach.kind == kind
    assert breach.path
    assert instance.explorer().explore(Ration()) is None, "the fault is gone with its context"


class _WithoutExpiry(Explorer):
    """Leases never run out."""

    def _of_redis(self, world: World) -> Iterator[tuple[str, World]]:
        yield from (step for step in super()._of_redis(world) if step[0] != "lease expires")


def test_a_state_from_which_there_is_no_way_on_is_found(client: Any) -> None:
    """If leases did not run out, a daemon that is killed would stop it all."""
    assert Instance(client, "live").explorer(_WithoutExpiry).explore(Ration()) is None
    breach = Instance(client, "live").explorer(_WithoutExpiry).explore(Ration(kills=1))
    assert breach is not None
    assert breach.kind == "stuck"
