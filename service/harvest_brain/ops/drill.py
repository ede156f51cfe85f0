"""The drill: the real daemon and the real Redis, end to end, in a namespace of its own.

A fill, a price at 0.52 R, the suggestion; the same price again, no second one; the switch on, nothing; the switch off,
the rung that is due. Every key lies below `<namespace>:harvest:drill:<random>`, gets an end of its own as soon as it is
there, and is removed afterwards, so production keys are never touched and nothing stays, even when the drill is killed.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import redis

from harvest_brain.config import Loaded
from harvest_brain.ops import children
from harvest_brain.redis.client import connect
from harvest_brain.report import explain

TTL_SEC = 600
STEP_SEC = 30.0
POLL_SEC = 0.05
SYMBOL = "DRILLUSDT"
ENTRY, STOP = "2500", "2450"
AT_HALF_R, AT_ONE_R = "2526", "2551"


class Step(NamedTuple):
    """`passed` is None where it can't be told."""

    name: str
    passed: bool | None
    line: str


def drill(loaded: Loaded) -> list[Step]:
    """Run it. Steps after one that did not pass are left out."""
    stage = _Stage(loaded, f"{loaded.settings.namespace}:harvest:drill:{secrets.token_hex(4)}")
    steps: list[Step] = []
    try:
        for step in stage.play():
            steps.append(step)
            if not step.passed:
                break
    except (redis.RedisError, OSError) as fault:
        steps.append(Step("redis", None, explain(fault)))
    finally:
        steps += stage.clear()
    return steps


@dataclass
class _Stage:
    loaded: Loaded
    namespace: str
    directory: Path = Path()
    daemon: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        # `Any`, because redis-py's types unite the replies of all protocols.
        self.client: Any = connect(self.loaded.settings.endpoint())
        self.call: Any = self.client.execute_command
        self.executions = f"{self.namespace}:stream:execution.result"
        self.suggestions = f"{self.namespace}:stream:harvest.suggestions"
        self.kill_switch = f"{self.namespace}:kill"

    def settings(self) -> dict[str, str]:
        """Where Redis is comes from the settings; what is decided by are the defaults, so that 0.52 R means the same
        everywhere."""
        mine = {name: value for name, value in self.loaded.values.items() if name.startswith("REDIS_") and value}
        streams = {
            name: f"{self.namespace}:stream:{name.removeprefix('STREAM_').lower().replace('_', '.')}"
            for name in self.loaded.values
            if name.startswith("STREAM_") and name != "STREAM_MARKET_PRICE"
        }
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            **mine,
            **streams,
            "STREAM_EXECUTION_RESULT": self.executions,
            "STREAM_HARVEST_SUGGESTIONS": self.suggestions,
            "HARVEST_NAMESPACE": self.namespace,
            "HARVEST_KILL_SWITCH_KEY": self.kill_switch,
            "HARVEST_MODE": "shadow",
            "RUNTIME_DIRECTORY": str(self.directory),
        }

    def play(self) -> Iterator[Step]:
        self.set_switch("0")
        self.directory = Path(tempfile.mkdtemp(prefix="harvest-brain-drill-"))
        log = self.directory / "daemon.log"
        self.daemon = children.start(children.harvest_brain_command("run"), log, self.directory, base=self.settings())
        ready = self.wait(lambda: self.status().get("role") == "leader")
        last = (log.read_text(errors="replace").splitlines() or ["nothing"])[-1]
        yield Step("daemon", ready, f"leads in {self.namespace}" if ready else f"does not lead; it says: {last}")

        self.add(side="BUY", qty="1.0", price=ENTRY, stop_loss=STOP, status="FILLED", order_id="DRILL-1")
        self.price(AT_HALF_R)
        found = self.harvests(1)
        first = found[0] if found else {}
        wanted = {"side": "SELL", "qty": 0.25, "reason": "R=0.52 >= 0.5", "dry_run": True, "reduce_only": True}
        good = len(found) == 1 and wanted.items() <= first.items()
        told = f"{first.get('side')} {first.get('qty')}, {first.get('reason')}" if found else "no suggestion"
        yield Step("suggestion", good, f"a fill and a price at 0.52 R: {told}")

        passed = self.price(AT_HALF_R)
        count = len(self.harvests())
        yield Step("repetition", passed and count == 1, f"the same price again: {count - 1} more suggestions")

        self.set_switch("1")
        passed = self.price(AT_ONE_R)
        count = len(self.harvests())
        yield Step("switch on", passed and count == 1, f"1.02 R with the switch on: {count - 1} more suggestions")

        self.set_switch("0")
        self.price(AT_ONE_R)
        rungs = [rung for intent in self.harvests(2)[1:] for rung in intent["rungs"]]
        yield Step("switch off", rungs in (["1.0"], ["1"]), f"the same with the switch off: rungs {rungs}")

    # What it does in its namespace.

    def set_switch(self, value: str) -> None:
        self.call("SET", self.kill_switch, value, "EX", TTL_SEC)

    def add(self, **fields: str) -> str:
        """An entry on the drill's execution stream, which never lacks an end."""
        # Both in one write, so no death of this process can come between them.
        with self.client.pipeline(transaction=False) as pipeline:
            pipeline.xadd(self.executions, {"symbol": SYMBOL, **fields})
            pipeline.expire(self.executions, TTL_SEC)
            entry_id: bytes = pipeline.execute()[0]
        return entry_id.decode()

    def price(self, price: str) -> bool:
        """A price, and whether the daemon has passed it in time."""
        entry_id = self.add(price=price, status="PRICE_UPDATE")
        passed = self.wait(lambda: self.cursor() == entry_id)
        self.end_all()
        return passed

    def harvests(self, wanted: int = 0) -> list[dict[str, Any]]:
        """The drill's harvests so far, oldest first; when there are to be `wanted`, wait for them."""
        found: list[dict[str, Any]] = []

        def enough() -> bool:
            found.clear()
            for _, fields in self.client.xrange(self.suggestions):
                payload = json.loads(fields[b"payload"])
                if payload["intent_type"] == "HARVEST_PARTIAL":
                    found.append(payload)
            return len(found) >= wanted

        self.wait(enough)
        self.end_all()
        return found

    def cursor(self) -> str:
        """Where the daemon's group stands, which it moves in the commit itself."""
        [group] = self.client.xinfo_groups(self.executions)
        return str(group["last-delivered-id"].decode())

    def status(self) -> dict[str, Any]:
        try:
            said: dict[str, Any] = json.loads((self.directory / "status.json").read_text())
        except (OSError, ValueError):
            return {}
        return said

    def wait(self, done: Callable[[], bool]) -> bool:
        until = time.monotonic() + STEP_SEC
        while not done():
            if time.monotonic() > until or (self.daemon is not None and self.daemon.poll() is not None):
                return False
            time.sleep(POLL_SEC)
        return True

    def keys(self, pattern: str) -> Iterator[bytes]:
        yield from self.client.scan_iter(match=pattern, count=1_000)

    def end_all(self) -> None:
        """Give every key of the drill an end soon, and those of an earlier one that was killed before it could."""
        for key in self.keys(f"{self.namespace.rpartition(':')[0]}:*"):
            self.call("EXPIRE", key, TTL_SEC, "LT")

    def clear(self) -> list[Step]:
        """Nothing stays. A step only where that failed."""
        if self.daemon is not None:
            children.stop(self.daemon)
        if self.directory.name:
            shutil.rmtree(self.directory, ignore_errors=True)
        try:
            for key in self.keys(f"{self.namespace}:*"):
                self.call("DEL", key)
            self.client.close()
        except (redis.RedisError, OSError) as fault:
            return [Step("cleaning up", None, f"{explain(fault)}; the keys of {self.namespace} end by themselves")]
        return []
