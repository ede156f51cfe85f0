"""Many episodes, one after the other in a few cells, and the account of them."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import redis

import harvest_brain
from harvest_brain.ops.children import die_with_parent
from harvest_brain.ops.demo.processes import server_program
from tests.faults.episode import Episode, Result, run
from tests.faults.nursery import Nursery
from tests.support.engine import ROOT

EPISODE_PATIENCE_SEC = 600
SHRINK_SEC = 180
SHRINK_TRIES = 3
MAX_VIOLATIONS = 10

_nursery: Nursery | None = None


def _begin() -> None:
    """A worker's own nursery, for all its episodes."""
    global _nursery  # noqa: PLW0603  # an initializer can leave what it made only here
    if sys.platform == "linux":
        die_with_parent()
    _nursery = Nursery()


def _run(episode: Episode) -> Result:
    assert _nursery is not None
    return run(episode, _nursery)


@dataclass
class Account:
    """What was done and found, as the record holds it."""

    command: str
    began: float = field(default_factory=time.time)
    seconds: float = 0.0
    seeds: list[int] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    entries: int = 0
    intents: int = 0
    rejected: int = 0
    violations: list[dict[str, str]] = field(default_factory=list)
    own_failures: list[str] = field(default_factory=list)

    def add(self, result: Result) -> None:
        tally = result.tally
        self.seeds.append(result.episode.seed)
        self.kills.update(tally.kills)
        self.faults.update(tally.faults)
        self.entries += tally.entries
        self.intents += tally.intents
        self.rejected += tally.rejected
        if result.violation:
            self.violations.append({"command": result.episode.command(), "found": result.violation})
        self.seconds = time.time() - self.began

    def as_dict(self) -> dict[str, Any]:
        return {
            "command": self.command,
            "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.began)),
            "seconds": round(self.seconds),
            "episodes": len(self.seeds),
            "seeds": [min(self.seeds, default=0), max(self.seeds, default=0)],
            "kills": {**self.kills, "all": self.kills.total()},
            "faults": dict(sorted(self.faults.items())),
            "entries": self.entries,
            "intents": self.intents,
            "rejected": self.rejected,
            "violations": self.violations,
            "own_failures": self.own_failures,
            "versions": _versions(),
        }


def _versions() -> dict[str, str | int]:
    said = subprocess.run([server_program()[0], "--version"], capture_output=True, text=True, check=True).stdout
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    return {
        "harvest_brain": harvest_brain.__version__,
        "commit": commit.stdout.strip(),
        "server": said.split(" sha=")[0].strip(),
        "redis_py": redis.__version__,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cpus": os.cpu_count() or 0,
    }


class Campaign:
    """`template` is the first episode; those after it differ in their seeds. `cells` run at the same time."""

    def __init__(self, template: Episode, *, cells: int = 2, record: Path | None = None) -> None:
        self._template = template
        self._cells = cells
        self._record = record
        self._started = 0
        self.account = Account(command=" ".join(["python -m tests.faults", *sys.argv[1:]]))

    def run(self, *, kills: int = 0, seconds: float = 0, shrinks: bool = True) -> int:
        """Until so many kills are done and so many seconds are over, or too much was found. Returns the exit code."""
        first_failure: Result | None = None
        for result in self._results(kills, seconds):
            self.account.add(result)
            self._tell(result)
            if result.violation and first_failure is None:
                first_failure = result
            self._write()
        account = self.account
        print(
            f"{len(account.seeds)} episodes, {account.kills.total()} kills ({dict(account.kills)}), "
            f"{account.faults.total()} faults, {account.entries} entries, {account.intents} intents, "
            f"{len(account.violations)} violations in {account.seconds:.0f} s"
        )
        if first_failure is not None and shrinks:
            smallest = shrink(first_failure)
            print(f"smallest that fails:\n  {smallest.episode.command()}\n{smallest.violation}")
        return 1 if account.violations else 2 if account.own_failures else 0

    def _results(self, kills: int, seconds: float) -> Iterator[Result]:
        """Episodes as they end. A worker that dies or hangs is replaced and accounted for."""
        running: dict[Future[Result], Episode] = {}
        pool = self._pool()
        try:
            while running or not self._is_over(kills, seconds):
                broken = False
                while len(running) < self._cells and not self._is_over(kills, seconds) and not broken:
                    episode = replace(self._template, seed=self._template.seed + self._started)
                    try:
                        running[pool.submit(_run, episode)] = episode
                        self._started += 1
                    except BrokenProcessPool:  # between two episodes
                        broken = True
                done, _ = wait(running, timeout=EPISODE_PATIENCE_SEC, return_when=FIRST_COMPLETED)
                broken = broken or not done
                for future in done:
                    episode = running.pop(future)
                    try:
                        yield future.result()
                    except BrokenProcessPool:
                        broken = True
                        running[future] = episode
                    except Exception as fault:  # noqa: BLE001  # whatever it is, it is accounted for and the rest goes on
                        self._own_failure(episode, "".join(traceback.format_exception(fault)))
                if broken:
                    for episode in running.values():
                        self._own_failure(episode, "it did not end, or its worker died")
                    running.clear()
                    self._end(pool)
                    pool = self._pool()
        finally:
            self._end(pool)

    def _is_over(self, kills: int, seconds: float) -> bool:
        account = self.account
        if len(account.violations) >= MAX_VIOLATIONS:
            return True
        if not kills and not seconds:
            return self._started > 0
        return account.kills.total() >= kills and time.time() - account.began >= seconds

    def _pool(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(self._cells, mp_context=get_context("spawn"), initializer=_begin)

    def _end(self, pool: ProcessPoolExecutor) -> None:
        for process in list((pool._processes or {}).values()):
            process.kill()
        pool.shutdown(wait=True, cancel_futures=True)

    def _own_failure(self, episode: Episode, text: str) -> None:
        self.account.own_failures.append(f"{episode.command()}\n{text}")
        self._write()
        print(f"the machine itself failed: {episode.command()}\n{text}", file=sys.stderr, flush=True)

    def _tell(self, result: Result) -> None:
        tally = result.tally
        print(
            f"seed {result.episode.seed}: {tally.kills.total()} kills, {tally.entries} entries, "
            f"{tally.intents} intents, {result.seconds:.1f} s{' VIOLATION' if result.violation else ''}",
            flush=True,
        )
        if result.violation:
            print(f"repeat it with\n  {result.episode.command()}\n{result.violation}", flush=True)

    def _write(self) -> None:
        """Bring the record up to date, at once and whole."""
        if self._record is not None:
            draft = self._record.with_suffix(".tmp")
            draft.write_text(json.dumps(self.account.as_dict(), indent=1) + "\n")
            draft.replace(self._record)


def shrink(failed: Result) -> Result:
    """The smallest episode found that still fails: fewer faults, entries and symbols. Since processes interleave as
    they like, one that passes is tried some times more before it counts as passing."""
    deadline = time.monotonic() + SHRINK_SEC
    best = failed
    with Nursery() as nursery:

        def fails(episode: Episode) -> Result | None:
            for _ in range(SHRINK_TRIES):
                if time.monotonic() > deadline:
                    return None
                result = run(episode, nursery)
                if result.violation:
                    return result
            return None

        smaller = True
        while smaller:
            smaller = False
            for candidate in _smaller(best.episode):
                found = fails(candidate)
                if found is not None:
                    best, smaller = found, True
                    break
    return best


def _smaller(episode: Episode) -> Iterator[Episode]:
    size = episode.size
    if size.entries > 10:
        yield replace(episode, size=replace(size, entries=size.entries // 2), rounds=max(episode.rounds // 2, 1))
    if size.symbols > 1:
        yield replace(episode, size=replace(size, symbols=size.symbols // 2))
    if len(episode.faults) > 1:
        half = len(episode.faults) // 2
        yield replace(episode, faults=episode.faults[:half])
        yield replace(episode, faults=episode.faults[half:])
        if len(episode.faults) <= 6:
            for fault in episode.faults:
                yield replace(episode, faults=tuple(other for other in episode.faults if other != fault))
