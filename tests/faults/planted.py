"""Faults that are planted into a daemon to see whether the tests find them. Each has lost somebody's money.

They change the product in the memory of one process that a test started for it, and nowhere else.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace

from harvest_brain.core.engine import Decision
from harvest_brain.core.numbers import ZERO
from harvest_brain.core.policy import RungState
from harvest_brain.core.position import Position
from harvest_brain.redis import store as product
from harvest_brain.redis.encode import position_text
from harvest_brain.redis.store import Reading, Store


def _rewrite_commit(old: str, new: str) -> None:
    assert old in product.COMMIT
    product.COMMIT = product.COMMIT.replace(old, new)


def _dedup_before_publish() -> None:
    """The dedup key is set first and the intent published after, in two steps. Whoever dies between them leaves a key
    that says of an intent which nobody ever saw that it is out."""
    _rewrite_commit("if claimed and not (", "if claimed and claimed ~= ARGV[#ARGV] and not (")
    send_commit, receive_commit = Store.send_commit, Store.receive_commit

    def send(self: Store, decision: Decision, reading: Reading | None = None) -> None:
        attempt = secrets.token_hex(8)
        self._claimed = [claim for intent in decision.intents for claim in intent.claims]  # type: ignore[attr-defined]  # the fault's own
        for claim in self._claimed:  # type: ignore[attr-defined]
            self._outbox.append(("SET", self._names.claim(claim), attempt, "EX", self._bounds.dedup_ttl_sec, "NX"))
        send_commit(self, decision, reading)
        self._outbox[-1] = (*self._outbox[-1], attempt)

    def receive(self: Store) -> Decision | None:
        if self._pending is not None:
            for _ in self._claimed:  # type: ignore[attr-defined]
                self._receive()
            self._claimed = []  # type: ignore[attr-defined]
        return receive_commit(self)

    Store.send_commit, Store.receive_commit = send, receive  # type: ignore[method-assign]  # that is the fault


def _cursor_before_commit() -> None:
    """The cursor is moved first and the effect written after. Whoever dies between them has passed entries that nobody
    has taken in."""
    send_commit, receive_commit = Store.send_commit, Store.receive_commit

    def send(self: Store, decision: Decision, reading: Reading | None = None) -> None:
        if reading is not None and (reading.entries or reading.aside):
            send_commit(self, Decision({}, self.state.waiting, {}, (), (), {}), reading)
            receive_commit(self)
            reading = None
        send_commit(self, decision, reading)

    Store.send_commit = send  # type: ignore[method-assign]  # that is the fault


def _rungs_in_memory() -> None:
    """Which rungs have fired is known to the process alone. Whoever starts again fires them again."""

    def forgetful(position: Position) -> str:
        if position.epoch is None:
            return position_text(position)
        armed = (RungState.ARMED,) * len(position.epoch.rungs)
        epoch = replace(position.epoch, rungs=armed, crossed=0, target=ZERO, issued=ZERO)
        return position_text(replace(position, epoch=epoch))

    product.position_text = forgetful  # type: ignore[attr-defined]  # that is the fault


def _switch_checked_early() -> None:
    """The kill-switch is looked at when deciding, and not again when publishing."""
    _rewrite_commit("if not running then return {'kill'} end", "")


def _unfenced() -> None:
    """The lease is looked at when deciding, and not again when writing: a leader that was asleep writes on."""
    _rewrite_commit("if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'lease'} end", "")


_FAULTS: dict[str, Callable[[], None]] = {
    "dedup-before-publish": _dedup_before_publish,
    "cursor-before-commit": _cursor_before_commit,
    "rungs-in-memory": _rungs_in_memory,
    "switch-checked-early": _switch_checked_early,
    "unfenced": _unfenced,
}
PLANTED = tuple(_FAULTS)


def plant(name: str) -> None:
    """Plant the fault `name` into this process."""
    _FAULTS[name]()
