"""`harvest-brain proof`: does it do what it should, here, now? Each check has a line, a verdict and its evidence.

Promises: it reads only. It starts nothing, sets nothing and clears nothing; with `--drill` it works besides in a
namespace of its own (see drill.py). It never uses KEYS. What can't be seen is "can't tell", never "pass": a check that
passes without having looked is worse than none. What only the host knows (unit, release, drift, journal) is checked by
`harvestctl proof`, which calls this.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import redis
from redis.exceptions import NoPermissionError, ResponseError

from harvest_brain import __version__
from harvest_brain.config import ConfigError, Loaded, load
from harvest_brain.ops.doctor import Finding, examine
from harvest_brain.ops.drill import drill
from harvest_brain.permit import durability, server_facts
from harvest_brain.redis.client import connect, make_connection
from harvest_brain.redis.encode import META_FIELD, Meta, parse_meta
from harvest_brain.redis.names import Names
from harvest_brain.redis.store import OLDEST_REDIS, UnusableError
from harvest_brain.redis.transport import RedisTransport
from harvest_brain.report import explain

PASS, FAIL, UNKNOWN = "pass", "fail", "can't tell"
EXIT_CODES = {PASS: 0, FAIL: 1, UNKNOWN: 3}

FRESH_SEC = 15
WATCH_SEC = 3.0
SCAN_SEC = 30.0
SCAN_COUNT = 1_000
LATEST_INTENTS = 1_000
FULL = 0.9
LOG_BYTES = 1 << 20
LOG_SEC = 3_600
MAX_LISTED = 20


class Check(NamedTuple):
    """`line` is for people; `evidence` is what was seen, ready for JSON."""

    name: str
    verdict: str
    line: str
    evidence: Any = None


Seen = tuple[str, str, Any]


class CannotTell(Exception):  # noqa: N818  # no error: an answer
    """Why a check has no verdict."""


@dataclass
class Scene:
    """What the checks look at."""

    loaded: Loaded
    client: redis.Redis
    runtime_directory: str
    reached: bool = False

    @property
    def call(self) -> Any:
        return self.client.execute_command

    @cached_property
    def names(self) -> Names:
        return self.loaded.settings.names()

    @cached_property
    def said(self) -> dict[str, Any] | None:
        """The daemon's status.json, None where there is none."""
        try:
            found: dict[str, Any] = json.loads(Path(self.runtime_directory, "status.json").read_text())
        except (OSError, ValueError):
            return None
        return found

    def meta(self) -> Meta | None:
        """What the state was written under. Raises `ValueError` where this release can't read it."""
        text = self.call("HGET", self.names.state, META_FIELD)
        try:
            return None if text is None else parse_meta(text.decode())
        except (LookupError, TypeError, AttributeError) as fault:
            raise ValueError(repr(fault)) from None

    @cached_property
    def findings(self) -> list[Finding]:
        settings = self.loaded.settings
        return examine(self.client, self.names, settings.mode, settings.start)

    @cached_property
    def facts(self) -> dict[str, str]:
        """What the server says of its persistence and of eviction; what it doesn't show is missing."""
        with closing(RedisTransport(make_connection(self.loaded.settings.endpoint()))) as transport:
            return server_facts(transport)


def prove(env_file: Path | None, environ: Mapping[str, str], *, with_drill: bool) -> list[Check]:
    """Every check. Raises nothing that comes from Redis, the files or the settings."""
    try:
        loaded = load(env_file, environ)
    except ConfigError as error:
        return [Check("config", FAIL, error.faults[0], list(error.faults))]
    checks = [Check("config", PASS, f"{len(loaded.values)} settings, each valid", dict(loaded.values))]
    scene = Scene(loaded, connect(loaded.settings.endpoint()), environ.get("RUNTIME_DIRECTORY", "").split(":")[0])
    with scene.client:
        checks.append(_look("redis", _redis, scene))
        for name, function in CHECKS:
            if scene.reached or function in WITHOUT_REDIS:
                checks.append(_look(name, function, scene))
            else:
                checks.append(Check(name, UNKNOWN, "Redis can't be asked"))
    if with_drill and scene.reached:
        checks += [Check(f"drill {step.name}", *_drilled(step.passed, step.line)) for step in drill(loaded)]
    elif with_drill:
        checks.append(Check("drill", UNKNOWN, "Redis can't be asked"))
    return checks


def _drilled(passed: bool | None, line: str) -> Seen:
    return UNKNOWN if passed is None else PASS if passed else FAIL, line, None


def _look(name: str, function: Callable[[Scene], Seen], scene: Scene) -> Check:
    try:
        return Check(name, *function(scene))
    except CannotTell as why:
        return Check(name, UNKNOWN, str(why))
    except NoPermissionError as fault:
        return Check(name, UNKNOWN, f"the Redis user may not look: {fault}")
    except UnusableError as fault:
        return Check(name, FAIL, str(fault))
    except (redis.RedisError, OSError) as fault:
        return Check(name, UNKNOWN, explain(fault))


# --- the server ---


def _redis(scene: Scene) -> Seen:
    scene.call("PING")
    scene.reached = True
    info = _info(scene.call("INFO", "server"))
    version = str(info.get("valkey_version") or info["redis_version"])
    endpoint = scene.loaded.settings.endpoint()
    good = tuple(int(part) for part in version.split(".")[:2]) >= OLDEST_REDIS
    line = f"{endpoint} answers, version {version}" + ("" if good else ": too old, 7.0 is needed")
    return PASS if good else FAIL, line, {"version": version, "uptime_sec": info.get("uptime_in_seconds")}


def _persistence(scene: Scene) -> Seen:
    facts = scene.facts
    if "appendonly" not in facts:
        raise CannotTell("the server shows neither CONFIG GET nor INFO persistence")
    found = durability(facts)
    objection = next((text for text in found.objections if text.startswith("appendonly")), "")
    return FAIL if objection else PASS, objection or found.remarks[0], facts


def _eviction(scene: Scene) -> Seen:
    facts = scene.facts
    if "maxmemory" not in facts or "maxmemory-policy" not in facts:
        raise CannotTell("the server shows neither CONFIG GET nor INFO memory")
    objection = next((text for text in durability(facts).objections if text.startswith("maxmemory-policy")), "")
    line = f"nothing is evicted: {facts['maxmemory-policy']}, maxmemory {facts['maxmemory']}"
    return FAIL if objection else PASS, objection or line, facts


def _memory(scene: Scene) -> Seen:
    info = _info(scene.call("INFO", "memory"))
    if "used_memory" not in info:
        raise CannotTell("the server does not show its memory")
    used, limit = int(info["used_memory"]), int(info.get("maxmemory", 0))
    evidence = {"used": used, "maxmemory": limit}
    if not limit:
        return PASS, f"{used / 1e6:.1f} MB used, no limit set", evidence
    share = used / limit
    return FAIL if share > FULL else PASS, f"{share:.0%} of {limit / 1e6:.1f} MB used", evidence


# --- streams, group, keys ---


def _streams(scene: Scene) -> Seen:
    names = scene.names
    streams = (names.executions, names.suggestions, names.trade_intents, names.stop_intents, names.rejected)
    kinds = {name: _text(scene.call("TYPE", name)) for name in streams}
    wrong = [f"{name} is a {kind}" for name, kind in kinds.items() if kind not in ("stream", "none")]
    if wrong:
        return FAIL, "; ".join(wrong), kinds
    if kinds[names.executions] == "none":
        return FAIL, f"{names.executions} does not exist", kinds
    lengths = {name: int(scene.call("XLEN", name)) for name in streams}
    return PASS, ", ".join(f"{length} in {name}" for name, length in lengths.items()), lengths


def _group(scene: Scene) -> Seen:
    findings = [f for f in scene.findings if f.subject in ("stream", "cursor", "group", "pending", "gap")]
    evidence = [finding.line() for finding in findings]
    troubles = [finding.text for finding in findings if finding.trouble]
    if troubles:
        return FAIL, troubles[0], evidence
    if not _has_group(scene):
        return FAIL, f"{scene.names.executions} has no group {scene.names.group}", evidence
    return PASS, next(f.text for f in findings if f.subject == "group"), evidence


def _has_group(scene: Scene) -> bool:
    groups: Any = scene.client.xinfo_groups(scene.names.executions)
    return any(_text(group["name"]) == scene.names.group for group in groups)


def _progress(scene: Scene) -> Seen:
    """Entries wait behind the cursor only while it moves."""
    first, lag = _place(scene)
    until = time.monotonic() + WATCH_SEC
    while lag:
        if time.monotonic() > until:
            return FAIL, f"{lag} entries wait, and the cursor does not move from {first}", {"lag": lag}
        time.sleep(0.2)
        place, lag = _place(scene)
        if place != first:
            return PASS, f"{lag} entries wait, and are being worked off", {"lag": lag}
    return PASS, "no entry waits", {"lag": 0}


def _place(scene: Scene) -> tuple[str, int]:
    if scene.call("EXISTS", scene.names.executions):
        groups: Any = scene.client.xinfo_groups(scene.names.executions)
        for group in groups:
            if _text(group["name"]) == scene.names.group:
                if group["lag"] is None:
                    raise CannotTell("the server can't tell how many entries wait until the next commit")
                return _text(group["last-delivered-id"]), int(group["lag"])
    raise CannotTell(f"there is no group {scene.names.group}")


def _positions(scene: Scene) -> Seen:
    suspect = [finding.text for finding in scene.findings if finding.subject == "suspect"]
    unpriced = (scene.said or {}).get("unpriced") or []
    if suspect:
        return FAIL, suspect[0], suspect
    if unpriced:
        return FAIL, f"no price for long: {', '.join(unpriced)}", unpriced
    return PASS, "the state can be read, no position is suspect", None


def _duplicates(scene: Scene) -> Seen:
    """Of the latest intents on each output stream no id stands twice."""
    names, looked, twice = scene.names, 0, []
    for stream in (names.suggestions, names.trade_intents, names.stop_intents):
        seen: set[bytes] = set()
        for _, fields in scene.call("XREVRANGE", stream, "+", "-", "COUNT", LATEST_INTENTS):
            pairs = fields if isinstance(fields, dict) else dict(zip(fields[::2], fields[1::2], strict=True))
            name = pairs.get(b"correlation_id")
            # Others may write to the stream of trade intents too.
            if name is None or not name.startswith(b"hb-"):
                continue
            looked += 1
            if name in seen:
                twice.append(f"{_text(name)} in {stream}")
            seen.add(name)
    if twice:
        return FAIL, f"{len(twice)} intents stand twice: {twice[0]}", twice[:MAX_LISTED]
    return PASS, f"none among the latest {looked} intents", {"looked_at": looked}


def _dedup(scene: Scene) -> Seen:
    """Each key that remembers a decision or a fill ends by itself."""
    until = time.monotonic() + SCAN_SEC
    counts, endless = {"harvest": 0, "fill": 0}, []
    for kind in counts:
        cursor = -1
        while cursor:
            if time.monotonic() > until:
                raise CannotTell(f"not through all keys within {SCAN_SEC:.0f} s; {sum(counts.values())} looked at")
            pattern = f"{scene.names.namespace}:dedup:{kind}:*"
            cursor, keys = scene.call("SCAN", max(cursor, 0), "MATCH", pattern, "COUNT", SCAN_COUNT)
            cursor = int(cursor)
            with scene.client.pipeline(transaction=False) as pipeline:
                for key in keys:
                    pipeline.ttl(key)
                endless += [_text(key) for key, ttl in zip(keys, pipeline.execute(), strict=True) if ttl == -1]
            counts[kind] += len(keys)
    evidence = {**counts, "without_end": endless[:MAX_LISTED]}
    if endless:
        return FAIL, f"{len(endless)} keys never end: {endless[0]}", evidence
    return PASS, f"{counts['harvest']} decisions and {counts['fill']} fills remembered, each with an end", evidence


# --- switch, mode, lease, life ---


def _kill_switch(scene: Scene) -> Seen:
    key = scene.names.kill_switch
    try:
        value = scene.call("GET", key)
    except ResponseError:
        return FAIL, f"{key} is no string: everything is stopped", None
    if value is None:
        live = _mode_in_force(scene) == "live"
        line = "absent: " + ("stopped, since live mode needs it set to 0 (harvest-brain arm)" if live else "running")
        return FAIL if live else PASS, line, None
    text = _text(value)
    if text in ("0", "1"):
        return PASS, "0: running" if text == "0" else "1: stopped on purpose, nothing is published", text
    return FAIL, f"{text!r} is neither 0 nor 1: everything is stopped", text


def _mode_in_force(scene: Scene) -> str:
    if scene.said is not None:
        return str(scene.said.get("mode"))
    with suppress(ValueError):
        meta = scene.meta()
        if meta is not None:
            return meta.mode
    return scene.loaded.settings.mode


def _mode(scene: Scene) -> Seen:
    """Set, said and written agree; or live was asked for, shadow is in force, and the daemon says why."""
    configured = scene.loaded.settings.mode
    try:
        meta = scene.meta()
    except ValueError as fault:
        return FAIL, f"the state can't be read: {fault}", None
    said = (scene.said or {}).get("mode")
    because = str((scene.said or {}).get("because") or "")
    evidence = {"set": configured, "said": said, "written": meta and meta.mode, "because": because}
    if meta is None:
        raise CannotTell("no state was written yet")
    if said is not None and said != meta.mode and (scene.said or {}).get("role") == "leader":
        return FAIL, f"the daemon says {said}, and the state was written in {meta.mode}", evidence
    in_force = said or meta.mode
    if in_force == configured:
        return PASS, in_force, evidence
    if (configured, in_force) == ("live", "shadow") and because:
        return PASS, f"shadow, although live is set: {because}", evidence
    return FAIL, f"{in_force} is in force, and the settings say {configured}", evidence


def _lease(scene: Scene) -> Seen:
    holder, ttl_ms = scene.call("GET", scene.names.lease), int(scene.call("PTTL", scene.names.lease))
    if holder is None:
        return FAIL, "nobody leads: no daemon runs, or none reaches this Redis", None
    evidence = {"holder": _text(holder), "ttl_ms": ttl_ms}
    if ttl_ms < 0:
        return FAIL, f"{_text(holder)} holds it without end: nobody could take over", evidence
    said = scene.said or {}
    if said.get("role") == "leader" and said.get("leader") != _text(holder):
        return FAIL, f"the daemon here says that it leads, and {_text(holder)} holds the lease", evidence
    return PASS, f"{_text(holder)} leads" + (f", {said['role']} here" if said else ""), evidence


def _heartbeat(scene: Scene) -> Seen:
    if not scene.runtime_directory:
        raise CannotTell("RUNTIME_DIRECTORY does not say where the daemon's status.json is; harvestctl proof knows")
    said = scene.said
    if said is None:
        return FAIL, f"{scene.runtime_directory}/status.json can't be read: no daemon runs here", None
    age = abs(time.time() - float(said.get("updated") or 0))
    evidence = {name: said.get(name) for name in ("release", "role", "state", "updated", "errors", "last_error")}
    if age > FRESH_SEC:
        return FAIL, f"no sign of life for {age:.0f} s", evidence
    if said.get("state") != "ready" or said.get("role") not in ("leader", "standby"):
        return FAIL, f"{said.get('role')}, {said.get('state')}", evidence
    return PASS, f"{said['role']}, {age:.0f} s old, release {said.get('release')}", evidence


def _log_file(scene: Scene) -> Seen:
    name = scene.loaded.settings.log_file
    if not name:
        return PASS, "goes to the journal, which harvestctl proof looks at", None
    with Path(name).open("rb") as file:
        file.seek(max(Path(name).stat().st_size - LOG_BYTES, 0))
        lines = file.read().decode(errors="replace").splitlines()
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(time.time() - LOG_SEC))
    errors = [line for line in lines if (found := _ERROR.search(line)) and found[1].replace("T", " ") >= since]
    if errors:
        return FAIL, f"{len(errors)} errors in the last hour: {errors[-1]}", errors[-MAX_LISTED:]
    return PASS, f"no error in the last hour in {name}", None


_ERROR = re.compile(r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d).*(?:\bERROR\b|\bCRITICAL\b)")

CHECKS: tuple[tuple[str, Callable[[Scene], Seen]], ...] = (
    ("heartbeat", _heartbeat),
    ("mode", _mode),
    ("kill-switch", _kill_switch),
    ("lease", _lease),
    ("streams", _streams),
    ("group", _group),
    ("progress", _progress),
    ("positions", _positions),
    ("duplicates", _duplicates),
    ("dedup keys", _dedup),
    ("persistence", _persistence),
    ("eviction", _eviction),
    ("memory", _memory),
    ("log file", _log_file),
)
WITHOUT_REDIS = (_heartbeat, _log_file)


# --- saying it ---


def verdict_of(checks: Sequence[Check]) -> str:
    """One that fails decides; else one that can't tell."""
    verdicts = {check.verdict for check in checks}
    return FAIL if FAIL in verdicts else UNKNOWN if UNKNOWN in verdicts else PASS


def as_dict(checks: Sequence[Check]) -> dict[str, Any]:
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "host": socket.gethostname(),
        "version": __version__,
        "verdict": verdict_of(checks),
        "checks": [check._asdict() for check in checks],
    }


def report(proof: Mapping[str, Any]) -> str:
    """The proof for a person, the verdict first."""
    width = max(len(check["name"]) for check in proof["checks"])
    lines = [f"HarvestBrain {proof['version']} on {proof['host']} at {proof['at']}: {proof['verdict'].upper()}"]
    lines += [f"{check['verdict']:<10}  {check['name']:<{width}}  {check['line']}" for check in proof["checks"]]
    return "\n".join(lines) + "\n"


def write(directory: Path, proof: Mapping[str, Any]) -> None:
    """proof.json and report.txt in a new directory. Raises `FileExistsError` rather than mix two proofs."""
    directory.mkdir(parents=True)
    (directory / "proof.json").write_text(json.dumps(proof, indent=1, ensure_ascii=False) + "\n")
    (directory / "report.txt").write_text(report(proof))


def _info(raw: bytes | Mapping[str, Any]) -> Mapping[str, Any]:
    """INFO's reply, which redis-py has parsed, or not."""
    if isinstance(raw, Mapping):
        return raw
    return dict(line.split(":", 1) for line in raw.decode().splitlines() if ":" in line)


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
