"""harvestctl is killed at each of its side effects, one after the other: the host can always be taken back."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from tests.support.fake_host import FakeHost, Killed

EFFECTS = (
    *((os, name) for name in ("open", "write", "fsync", "replace", "symlink", "unlink", "mkdir", "fchmod", "rename")),
    *((shutil, name) for name in ("rmtree",)),
)


def killed_at(host: FakeHost, step: int, monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> str:
    """Run `action` until its side effect number `step`, and kill it there. The effect, or nothing when it ended before.

    Files are reached through `os` and `pathlib`, which both end in the functions of `os`; systemd through programs.
    """
    done = 0
    name = ""

    def effect(what: str) -> None:
        nonlocal done, name
        done += 1
        if done == step:
            name = what
            raise Killed

    with monkeypatch.context() as patch:
        for module, function in EFFECTS:
            real = getattr(module, function)

            def wrapped(
                *words: object, _real: Callable[..., object] = real, _name: str = function, **more: object
            ) -> object:
                path = str(words[0])
                if "/proc/" in path or not (str(host.root) in path or _name in ("write", "fsync", "fchmod")):
                    return _real(*words, **more)
                if _name == "open" and not int(str(words[1])) & (os.O_WRONLY | os.O_RDWR):
                    return _real(*words, **more)
                effect(f"{_name} {path}")
                return _real(*words, **more)

            patch.setattr(module, function, wrapped)
        host.before_effect = effect
        try:
            action()
        except Killed:
            pass
        finally:
            host.before_effect = lambda _: None
    return name


class Killer:
    """Runs a command on copies of a host, killing it at the first side effect, at the second, and so on to the end."""

    def __init__(self, factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
        self._factory = factory
        self._monkeypatch = monkeypatch
        self.effects: list[str] = []

    def each(self, host: FakeHost, *words: str) -> Iterator[tuple[FakeHost, str]]:
        """The host as it was left, and at which effect."""
        while True:
            twin = host.copy(self._factory.mktemp("host"))
            name = killed_at(twin, len(self.effects) + 1, self._monkeypatch, partial(twin.run, *words))
            if not name:
                return
            self.effects.append(name)
            yield twin, f"killed at {len(self.effects)}: {name}"
            shutil.rmtree(twin.root)


@pytest.fixture
def killer(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Killer:
    return Killer(tmp_path_factory, monkeypatch)


@pytest.mark.parametrize("bad", [False, True], ids=["a good release", "a bad release"])
@pytest.mark.parametrize("first", [False, True], ids=["upgrade", "first deploy"])
def test_wherever_activate_is_killed_rollback_works(host: FakeHost, killer: Killer, bad: bool, first: bool) -> None:
    good = None if first else host.proven("HARVEST_MIN_R=2\n")
    release = host.release("HARVEST_MIN_R=3\n", **({"dies": 8} if bad else {}))
    for left, where in killer.each(host, "activate", release):
        timer = left.systemd.timer
        # After the verdict there is nothing to go back from.
        wanted = release if left.run("status")[1]["last_proven"] == release else good
        # One rename switches: at no instant is there neither the old nor the new.
        assert left.current in (good, release) or good is None, where
        code, answer = left.run("rollback", "--from", release)
        assert (code, left.current) == (0, wanted), f"{where}: {answer}"
        assert left.systemd.life().active == ("active" if wanted else "inactive"), where
        assert left.systemd.release == wanted or wanted is None, where
        _, status = left.run("status")
        assert status["pending"] is None, where
        assert status["last_proven"] == wanted, where
        if timer is not None:
            left.systemd.timer = timer
            late = left.deadline()
            assert late is not None
            assert (late[1]["changed"], left.current) == (False, wanted), f"{where}, then a late timer"
    assert len(killer.effects) > 20


@pytest.mark.parametrize("first", [False, True], ids=["upgrade", "first deploy"])
def test_wherever_activate_is_killed_the_timer_takes_the_host_back(host: FakeHost, killer: Killer, first: bool) -> None:
    good = None if first else host.proven("HARVEST_MIN_R=2\n")
    release = host.release("HARVEST_MIN_R=3\n")
    fired = 0
    for left, where in killer.each(host, "activate", release):
        judged = left.run("status")[1]["last_proven"] == release
        wanted = release if judged else good
        fired += left.systemd.timer is not None
        result = left.deadline() or (0, {})
        # Before the timer is armed nothing is touched; after the verdict there is nothing to go back from.
        assert (result[0], left.current) == (0, wanted), f"{where}: {result[1]}"
        assert left.systemd.life().active == ("active" if wanted else "inactive"), where
        assert left.systemd.release == wanted or wanted is None, where
    assert fired > 10


@pytest.mark.parametrize("target", ["the last proven", "off"])
def test_wherever_rollback_is_killed_a_second_one_ends_it(host: FakeHost, killer: Killer, target: str) -> None:
    host.proven("HARVEST_MIN_R=0\n")
    good, _ = host.proven("HARVEST_MIN_R=1\n"), host.proven("HARVEST_MIN_R=2\n")
    words = ("--to", "off") if target == "off" else ()
    wanted = None if target == "off" else good
    for left, where in killer.each(host, "rollback", *words):
        # Once it stands in the audit log it is done, and one more would go one further.
        if target == "off" or "rolled back" not in left.event_names():
            code, answer = left.run("rollback", *words)
            assert code == 0, f"{where}: {answer}"
        assert left.current == wanted, where
        assert left.systemd.life().active == ("active" if wanted else "inactive"), where
        assert left.run("status")[1]["pending"] is None, where
    assert len(killer.effects) > 10


@pytest.mark.parametrize("wrong", [False, True], ids=["a new password", "a wrong password"])
@pytest.mark.parametrize("release", ["the same release", "a new release"])
def test_wherever_activate_is_killed_the_password_is_a_proven_one_or_is_taken_back(
    host: FakeHost, killer: Killer, wrong: bool, release: str
) -> None:
    password = host.root / "etc/quantum/credentials/redis-password"
    password.parent.mkdir(parents=True)
    password.write_text("old")
    name = host.proven("HARVEST_MIN_R=2\n")
    if release == "a new release":
        name = host.release("HARVEST_MIN_R=3\n")
    password.with_name("redis-password.next").write_text("new")
    host.systemd.redis_password = "old" if wrong else None
    seen = set()
    for left, where in killer.each(host, "activate", name):
        _, status = left.run("status")
        lies = left.root / "etc/quantum/credentials/redis-password"
        before, judged = lies.read_text(), left.event_names().count("proven") > 1
        assert before == "old" or status["pending"] or (judged and not wrong), where
        result = left.deadline() or (0, {})
        assert result[0] == 0, f"{where}: {result[1]}"
        after = lies.read_text()
        seen.add((before, after))
        assert after == "old" or (after == "new" and not wrong), where
        # As at the next boot.
        left.systemd.do_restart([])
        left.clock.sleep(10)
        assert left.systemd.life().active == "active", where
    assert {("old", "old"), ("new", "old")} <= seen
