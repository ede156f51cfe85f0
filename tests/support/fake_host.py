"""A host in a directory, with a systemd that is played: what harvestctl's tests run it against.

harvestctl runs in this process, with its clock and its subprocesses replaced, so that twenty seconds of waiting take
none. How a release's daemon behaves stands in a file of the release, as if it were its code.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from time import struct_time
from types import CodeType, ModuleType, SimpleNamespace
from typing import Any

PROGRAM = Path(__file__).parents[2] / "roles/harvest_tools/files/harvestctl"
UNIT = "quantum-harvest-brain.service"
TIMER = "quantum-harvest-brain-deadman"
START_UP_SEC = 1.0
RESTART_SEC = 5.0


def load_harvestctl() -> Any:
    """A fresh copy of the program as a module."""
    module = ModuleType("harvestctl")
    module.__file__ = str(PROGRAM)
    # Dataclasses look their module up by its name.
    sys.modules["harvestctl"] = module
    exec(_compiled(), module.__dict__)  # noqa: S102  # it is our own program, which has no suffix to import it by
    return module


@cache
def _compiled() -> CodeType:
    return compile(PROGRAM.read_text(), str(PROGRAM), "exec")


class Killed(BaseException):
    """harvestctl is killed at this instant."""


@dataclass
class Clock:
    """Time that passes when somebody sleeps."""

    elapsed: float = 0.0
    start: float = field(default_factory=time.time)
    wakers: list[Callable[[], object]] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.elapsed

    def time(self) -> float:
        return self.start + self.elapsed

    def sleep(self, seconds: float) -> None:
        self.elapsed += seconds
        for wake in self.wakers:
            wake()

    def gmtime(self, at: float | None = None) -> struct_time:
        return time.gmtime(self.time() if at is None else at)

    def strftime(self, form: str, at: struct_time) -> str:
        return time.strftime(form, at)


@dataclass
class Life:
    """What systemd knows of the service at one moment."""

    active: str = "inactive"
    sub: str = "dead"
    pid: int = 0
    restarts: int = 0
    result: str = "success"


@dataclass
class FakeSystemd:
    """systemctl, systemd-run and journalctl, as far as harvestctl uses them."""

    root: Path
    clock: Clock
    loaded: str = ""
    enabled: bool = False
    started: float | None = None
    started_after: float = 0.0
    release: str = ""
    starts: int = 0
    timer: dict[str, Any] | None = None
    redis_down: bool = False
    redis_password: str | None = None
    password: str = ""
    drop_ins: str = ""
    # The daemon of another host: stands by until this one restarts, then leads, and this one stands by.
    other: str = ""
    other_leads: bool = False
    journal: list[str] = field(default_factory=list)
    journal_began: int = 0
    calls: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    code: str = ""
    does: dict[str, Any] = field(default_factory=dict)
    said: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # The daemon writes its status whether somebody asks systemd or not.
        self.clock.wakers.append(self.life)

    @property
    def unit_file(self) -> Path:
        return self.root / "etc/systemd/system" / UNIT

    @property
    def status_file(self) -> Path:
        return self.root / "run/quantum-harvest-brain/status.json"

    def __call__(self, command: Sequence[str]) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        words = [word for word in command[1:] if word not in ("--quiet", "--no-pager")]
        if command[0] == "systemd-run":
            verb = "systemd-run"
        elif command[0] == "journalctl":
            verb = "journalctl"
        else:
            verb = words[0]
        self.calls.append(verb)
        if verb in self.broken:
            return 1, "", f"{verb}: Access denied"
        return getattr(self, "do_" + verb.replace("-", "_"))(words)  # type: ignore[no-any-return]  # one of those below

    def do_show(self, _: list[str]) -> tuple[int, str, str]:
        life = self.life()
        shown = {
            "LoadState": "loaded" if self.loaded else "not-found",
            "ActiveState": life.active,
            "SubState": life.sub,
            "UnitFileState": "" if not self.loaded else "enabled" if self.enabled else "disabled",
            "MainPID": life.pid,
            "NRestarts": life.restarts,
            "Result": life.result,
            "FragmentPath": self.unit_file if self.loaded else "",
            "DropInPaths": self.drop_ins,
            "InvocationID": str(self.starts) if self.starts else "",
            "NeedDaemonReload": "yes" if self.loaded and self.disk() != self.loaded else "no",
            "MemoryCurrent": 40_000_000,
            "ActiveEnterTimestampMonotonic": int(self.started_after * 1e6),
        }
        return 0, "".join(f"{name}={value}\n" for name, value in shown.items()), ""

    def disk(self) -> str:
        return self.unit_file.read_text() if self.unit_file.exists() else ""

    def do_daemon_reload(self, _: list[str]) -> tuple[int, str, str]:
        self.loaded = self.disk()
        return 0, "", ""

    def do_enable(self, _: list[str]) -> tuple[int, str, str]:
        if not self.disk():
            return 1, "", f"Unit file {UNIT} does not exist."
        self.enabled = True
        return 0, "", ""

    def do_reset_failed(self, _: list[str]) -> tuple[int, str, str]:
        return 0, "", ""

    def do_restart(self, _: list[str]) -> tuple[int, str, str]:
        if not self.loaded:
            return 5, "", f"Unit {UNIT} not found."
        current = self.root / "opt/quantum/harvest-brain/current"
        self.started, self.starts = self.clock.time(), self.starts + 1
        self.started_after = self.clock.elapsed
        self.other_leads = bool(self.other)
        self.release = current.readlink().name if current.is_symlink() else ""
        # systemd hands the credentials over at the start.
        credential = self.root / "etc/quantum/credentials/redis-password"
        self.password = credential.read_text() if credential.exists() else ""
        self.journal_began = len(self.journal)
        self.journal.append(f"starting {self.release}")
        return 0, "", ""

    def do_disable(self, words: list[str]) -> tuple[int, str, str]:
        self.enabled = False
        if "--now" in words:
            self.started = None
        return 0, "", ""

    def do_stop(self, words: list[str]) -> tuple[int, str, str]:
        if words[1] == UNIT:
            self.started = None
            return 0, "", ""
        assert words[1] == f"{TIMER}.timer"
        if self.timer is None:
            return 5, "", f"Unit {words[1]} not loaded."
        self.timer = None
        return 0, "", ""

    def do_systemd_run(self, words: list[str]) -> tuple[int, str, str]:
        if self.timer is not None:
            return 1, "", f"Unit {TIMER}.timer was already loaded."
        seconds = next(float(word.split("=")[1]) for word in words if word.startswith("--on-active="))
        self.timer = {"at": self.clock.time() + seconds, "command": words[words.index("--") + 1 :]}
        return 0, "", ""

    def do_journalctl(self, words: list[str]) -> tuple[int, str, str]:
        lines = self.journal
        if any("INVOCATION_ID=" in word for word in words):
            assert words[-3:] == [f"_SYSTEMD_INVOCATION_ID={self.starts}", "+", f"INVOCATION_ID={self.starts}"]
            lines = lines[self.journal_began :]
        for word in words:
            if word.startswith("--lines="):
                lines = lines[-int(word.split("=")[1]) :]
        return 0, "".join(f"{line}\n" for line in lines), ""

    # The daemon.

    def behaviour(self) -> dict[str, Any]:
        release = self.root / "opt/quantum/harvest-brain/releases" / self.release
        path = next(release.glob("*/behaviour.json"), None)
        if path is None:
            return {"crash loop": True}
        text = path.read_text()
        if text != self.code:
            self.code, self.does = text, json.loads(text)
        return self.does

    def life(self) -> Life:  # noqa: PLR0911  # a table of lives
        if self.started is None:
            return Life()
        ran = self.clock.time() - self.started
        does = self.behaviour()
        pid = 1000 * self.starts
        if does.get("fails"):
            return Life("failed", "failed", 0, 3, "exit-code")
        if does.get("crash loop"):
            restarts = int(ran / RESTART_SEC)
            return Life("activating", "auto-restart", 0, restarts, "exit-code")
        if self.redis_password is not None and self.password != self.redis_password:
            self.say(does, state="waiting for Redis: WRONGPASS invalid username-password pair", role="none")
            return Life("activating", "start", pid)
        if self.redis_down or does.get("waits"):
            self.say(does, state="waiting for Redis: " + does.get("waits", "Connection refused"), role="none")
            return Life("activating", "start", pid)
        if ran < does.get("ready", START_UP_SEC):
            return Life("activating", "start", pid)
        soaked = ran - does.get("ready", START_UP_SEC)
        if soaked >= does.get("dies", float("inf")):
            return Life("active", "running", pid + 1, 1)
        role = "standby" if self.other_leads else does.get("role", "leader")
        self.say(does, state="ready", role=role, leader=self.other if self.other_leads else f"here:{pid}:5eed")
        return Life("active", "running", pid)

    def say(self, does: dict[str, Any], **words: Any) -> None:
        """status.json, written every two seconds."""
        if does.get("silent"):
            return
        assert self.started is not None
        beat = self.started + does["frozen"] if "frozen" in does else self.clock.time() // 2 * 2
        self.status_file.parent.mkdir(parents=True, exist_ok=True)
        said = {
            "release": does.get("claims", self.release),
            "mode": self.mode(),
            "started": self.started,
            "updated": beat,
            "schema": does.get("schema", 1),
            "counts": does.get("counts", {}),
            "last_error": words["state"].removeprefix("waiting for Redis: "),
            **words,
        }
        if said != self.said or not self.status_file.exists():
            self.status_file.write_text(json.dumps(said))
            self.said = said

    def mode(self) -> str:
        token = self.root / "etc/quantum/credentials/live-token"
        env = self.root / "opt/quantum/harvest-brain/releases" / self.release / "harvest-brain.env"
        wanted = "HARVEST_MODE=live" in env.read_text().splitlines()
        return "live" if wanted and token.exists() and not self.behaviour().get("stays_shadow") else "shadow"


HARVEST_BRAIN = """#!/bin/sh
# A release's harvest-brain, as far as harvestctl calls it.
here=$(dirname "$0")
echo "$@ mode=$HARVEST_MODE release=$HARVEST_RELEASE_ID password_file=$REDIS_PASSWORD_FILE user=$REDIS_USERNAME" \\
    >>"$here/../../../../calls"
case $1 in
--version) [ ! -e "$here/does-not-start" ] || { echo "No module named redis" >&2; exit 1; } ; echo 0.1.0 ;;
check-config) ! grep -n HARVEST_LADER "$2" >&2 || exit 2 ;;
proof) cat "$here/proof.json"; exit $(cat "$here/proof.exit" 2>/dev/null || echo 0) ;;
purge-keys) [ ! -e "$here/redis-down" ] || { echo "Redis: Connection refused" >&2; exit 1; }; echo "removed 3 keys" ;;
kill) echo "quantum:kill was 0, is 1" ;;
status) cat "$here/../../../../redis.json" 2>/dev/null || { echo "Redis: Connection refused" >&2; exit 1; } ;;
*) exit 2 ;;
esac
"""
GOOD_PROOF: dict[str, Any] = {
    "verdict": "pass",
    "checks": [
        {"name": name, "verdict": "pass", "line": f"{name} is well", "evidence": None}
        for name in ("group", "duplicates", "drill switch on", "drill switch off")
    ],
}


class FakeHost:
    """A root directory, releases made by `seal`, and harvestctl run on it."""

    def __init__(self, root: Path) -> None:
        self.root = root / "root"
        self.root.mkdir()
        self.clock = Clock()
        self.systemd = FakeSystemd(self.root, self.clock)
        self.ctl: Any = load_harvestctl()
        self.ctl.time = self.clock
        self.ctl.subprocess = SimpleNamespace(
            run=self._run, DEVNULL=subprocess.DEVNULL, TimeoutExpired=subprocess.TimeoutExpired
        )
        self.printed: list[str] = []
        self.ctl.print = lambda *parts, **_: self.printed.append(" ".join(map(str, parts)))
        self.has_systemd = True
        self.has_engine = True
        self.engine_calls: list[str] = []
        self.before_effect: Callable[[str], None] = lambda _: None
        self.bundle = root / "bundle"
        self._make_bundle()

    def copy(self, directory: Path) -> FakeHost:
        """The same host at the same moment, in another directory."""
        twin = FakeHost(directory)
        shutil.copytree(self.root, twin.root, symlinks=True, dirs_exist_ok=True)
        known = {
            spec.name: getattr(self.systemd, spec.name)
            for spec in fields(FakeSystemd)
            if spec.name not in ("root", "clock", "journal", "calls", "broken")
        }
        twin.clock.start, twin.clock.elapsed = self.clock.start, self.clock.elapsed
        for name, value in known.items():
            setattr(twin.systemd, name, value)
        return twin

    # What it is made of.

    @property
    def home(self) -> Path:
        return self.root / "opt/quantum/harvest-brain"

    @property
    def releases(self) -> Path:
        return self.home / "releases"

    @property
    def current(self) -> str | None:
        link = self.home / "current"
        return link.readlink().name if link.is_symlink() else None

    @property
    def log(self) -> Path:
        return self.root / "var/lib/quantum/harvest-brain-deploy/history.jsonl"

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().strip().split("\n")]

    def event_names(self) -> list[str]:
        return [event["event"] for event in self.events()]

    def _make_bundle(self, version: str = "0.1.0", reads: Sequence[int] = (1,), writes: int = 1) -> None:
        (self.bundle / "wheelhouse").mkdir(parents=True, exist_ok=True)
        files = {
            "wheelhouse/harvest_brain-0.1.0-py3-none-any.whl": "the code",
            "requirements.txt": "harvest-brain==0.1.0 --hash=sha256:0\n",
            "BUNDLE.json": json.dumps({"version": version, "schema": {"writes": writes, "reads": list(reads)}}),
        }
        for name, text in files.items():
            (self.bundle / name).write_text(text)
        sums = (f"{hashlib.sha256(text.encode()).hexdigest()}  {name}\n" for name, text in files.items())
        (self.bundle / "SHA256SUMS").write_text("".join(sums))

    def stage(
        self,
        settings: str = "HARVEST_MODE=shadow\n",
        *,
        reads: Sequence[int] = (1,),
        writes: int = 1,
        version: str = "0.1.0",
        **does: Any,
    ) -> str:
        """A staged release that is not sealed yet; `does` is how its daemon behaves. Its name."""
        self._make_bundle(version, reads, writes)
        # What a daemon does is its code, so it is part of the name: here by a comment in the settings.
        settings += f"# {json.dumps(does)}\n"
        unit = f"[Service]\n# {version}\n"
        digests = [hashlib.sha256(text.encode()).hexdigest() for text in (settings, unit)]
        code, answer = self.run("name", "--bundle", str(self.bundle), "--env", digests[0], "--unit", digests[1])
        assert code == 0, answer
        name: str = answer["release"]
        path = self.releases / name
        if not (path / "RELEASE.json").exists():
            (path / "venv/bin").mkdir(parents=True)
            (path / "venv/bin/harvest-brain").write_text(HARVEST_BRAIN)
            (path / "venv/bin/harvest-brain").chmod(0o755)
            (path / "venv/bin/proof.json").write_text(json.dumps(does.get("proof", GOOD_PROOF)))
            (path / "venv/behaviour.json").write_text(json.dumps(does))
            (path / "venv/bin/python3").symlink_to("/usr/bin/python3")
            (path / "harvest-brain.env").write_text(settings)
            (path / UNIT).write_text(unit)
        return name

    def release(self, settings: str = "HARVEST_MODE=shadow\n", **more: Any) -> str:
        """A staged and sealed release."""
        name = self.stage(settings, **more)
        code, answer = self.run("seal", name, "--bundle", str(self.bundle))
        assert code == 0, answer
        os.utime(self.releases / name / "RELEASE.json", (self.clock.time(), self.clock.time()))
        return name

    def proven(self, settings: str = "HARVEST_MODE=shadow\n", **more: Any) -> str:
        """A release that is active and proven."""
        name = self.release(settings, **more)
        code, answer = self.run("activate", name)
        assert code == 0, answer
        return name

    # Running it.

    def run(self, *words: str) -> tuple[int, dict[str, Any]]:
        """Exit code and the JSON answer."""
        code, text = self.text(words[0], "--json", *words[1:])
        return code, json.loads(text.split("\n")[-1])

    def text(self, *words: str) -> tuple[int, str]:
        """Exit code and what a person reads."""
        first = len(self.printed)
        code = self.ctl.main([words[0], "--root", str(self.root), *words[1:]])
        return code, "\n".join(self.printed[first:])

    def deadline(self) -> tuple[int, dict[str, Any]] | None:
        """Let time pass until the dead-man timer, if it ticks, calls harvestctl. What that came to."""
        if self.systemd.timer is None:
            return None
        command, self.clock.elapsed = self.systemd.timer["command"], self.systemd.timer["at"] - self.clock.start
        self.systemd.timer = None
        words = command[command.index("rollback") :]
        assert words[1:3] == ["--root", str(self.root)]
        return self.run("rollback", *words[3:])

    def _run(self, command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        if command[0] in ("podman", "docker"):
            if not self.has_engine:
                raise FileNotFoundError(command[0])
            self.engine_calls.append(" ".join(command))
            return subprocess.CompletedProcess(command, 0, "", "")
        if command[0] not in ("systemctl", "systemd-run", "journalctl"):
            return subprocess.run(command, **options)  # noqa: PLW1510  # the options say it
        if not self.has_systemd:
            raise FileNotFoundError(command[0])
        if command[1] != "show" and command[0] != "journalctl":
            self.before_effect(" ".join(command[:2]))
        code, out, err = self.systemd(command)
        if options.get("env") is None and command[1] == "restart":
            self.before_effect("restarted")
        return subprocess.CompletedProcess(command, code, out, err)
