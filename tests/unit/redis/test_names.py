"""Keys and streams have the names that the documentation promises, in any namespace."""

from __future__ import annotations

from dataclasses import fields

import pytest

from harvest_brain.config import load
from harvest_brain.redis.names import Names


def names(**environ: str) -> Names:
    return load(None, environ).settings.names()


def test_every_key_has_the_name_that_is_promised() -> None:
    default = names()
    assert (default.kill_switch, default.lease, default.state) == (
        "quantum:kill",
        "quantum:harvest:lease",
        "quantum:harvest:state",
    )
    assert default.claim("hb-7f3c-r1") == "quantum:dedup:harvest:hb-7f3c-r1"
    assert default.fill("ETHUSDT#fill#F7") == "quantum:dedup:fill:ETHUSDT#fill#F7"
    assert default.history("ETHUSDT") == "quantum:harvest:history:ETHUSDT"
    assert default.overrides("ETHUSDT") == "quantum:config:harvest:ETHUSDT"


@pytest.mark.parametrize("namespace", ["quantum", "{quantum}", "team:a"])
def test_everything_stands_in_the_namespace(namespace: str) -> None:
    found = names(HARVEST_NAMESPACE=namespace, STREAM_MARKET_PRICE=f"{namespace}:prices")
    stored = [getattr(found, field.name) for field in fields(found) if field.name != "group"]
    made = [found.lease, found.state, found.rate, found.claim("x"), found.fill("x"), found.history("x")]
    assert all(key.startswith(namespace) for key in (*stored, *made, found.overrides("x")))


def test_no_two_keys_are_the_same() -> None:
    found = names(STREAM_MARKET_PRICE="prices")
    made = [found.lease, found.state, found.rate, found.claim("x"), found.fill("x"), found.history("x")]
    stored = [getattr(found, field.name) for field in fields(found) if field.name not in ("group", "namespace")]
    assert len({*stored, *made, found.overrides("x")}) == len(stored) + len(made) + 1
