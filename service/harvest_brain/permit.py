"""Whether live mode may be live: the release's token, and what the server could lose.

A daemon that is asked to be live and may not be runs in shadow, and says so with the reason in every status: a "live"
that is silently something else has cost people money. Both are looked at again while the daemon runs.

The live token is a file that whoever promotes a release writes, named in HARVEST_LIVE_TOKEN_FILE. Where that is set,
live mode needs it; it holds one JSON object:

    {"release": "1.4.0-0a1b2c3d4e5f", "evidence": "sha256:<64 hex digits>", "expires": "2026-01-18T12:00:00Z"}

`release` equals HARVEST_RELEASE_ID, `evidence` is the digest of the shadow evidence on which the release was promoted,
and from `expires` on (ISO 8601 with an offset from UTC) the token is void.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from redis.exceptions import ResponseError

from harvest_brain.core.numbers import shorten
from harvest_brain.redis.transport import RedisTransport, parse_info, parse_pairs

NEVER = float("inf")
_FACTS = ("appendonly", "appendfsync", "save", "maxmemory", "maxmemory-policy")

_SYNC = {
    "always": "a power cut loses nothing that was acknowledged (appendfsync always)",
    "everysec": "a power cut can lose the last second or two (appendfsync everysec): state and streams go back "
    "together, and what consumers took in that time is published again under the same ids",
    "no": "a power cut can lose what the operating system has not written yet, often 30 s (appendfsync no)",
}


class TokenError(ValueError):
    """Why a live token is not valid."""


class Permit(NamedTuple):
    """`objections`: why live mode may not be live, none if it may. `remarks`: what else there is to know of the
    server's durability. `until`: when the token ends, in seconds since 1970."""

    objections: tuple[str, ...]
    remarks: tuple[str, ...] = ()
    until: float = NEVER


def token_expiry(path: Path, release: str, now: float) -> float:
    """When the live token at `path` ends (seconds since 1970). Raises `TokenError` when it is not valid for `release`
    at `now`."""
    try:
        token = json.loads(path.read_text())
        named, evidence, expires = (str(token[name]) for name in ("release", "evidence", "expires"))
        moment = datetime.fromisoformat(expires)
    except OSError as fault:
        raise TokenError(f"{path}: {fault.strerror or fault}") from None
    except KeyError as fault:
        raise TokenError(f"{path} is no live token: it lacks {fault}") from None
    except (ValueError, TypeError) as fault:
        raise TokenError(f"{path} is no live token: {shorten(repr(fault))}") from None
    if not release or named != release:
        raise TokenError(f"{path} is for release {shorten(named)!r}, and this is {release!r}")
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", evidence):
        raise TokenError(f"{path}: evidence {shorten(evidence)!r} is not sha256: and 64 hex digits")
    if moment.tzinfo is None:
        raise TokenError(f"{path}: expires {expires!r} has no offset from UTC, such as a final Z")
    if now >= moment.timestamp():
        raise TokenError(f"{path} expired at {expires}")
    return moment.timestamp()


def server_facts(transport: RedisTransport) -> dict[str, str]:
    """What the server says of its persistence and its memory, in the names of its settings; what it doesn't show is
    missing. INFO is readable where CONFIG is not, and says less."""
    facts = {}
    with suppress(ResponseError, KeyError):
        info = parse_info(transport.call("INFO", "persistence"))
        facts["appendonly"] = "no" if info["aof_enabled"] == "0" else "yes"
    with suppress(ResponseError, KeyError):
        info = parse_info(transport.call("INFO", "memory"))
        facts |= {"maxmemory": info["maxmemory"], "maxmemory-policy": info["maxmemory_policy"]}
    with suppress(ResponseError):
        shown = parse_pairs(transport.call("CONFIG", "GET", *_FACTS))
        facts |= {name: value.decode() for name, value in shown.items()}
    return facts


def durability(facts: Mapping[str, str]) -> Permit:
    """What a power cut or a full memory could lose, by what the server says of itself (`server_facts`)."""
    objections, remarks = [], []
    appendonly = facts.get("appendonly")
    if appendonly == "no":
        kept = {None: "what the last snapshot holds, if there is one", "": "nothing at all (save is off)"}
        left = kept.get(facts.get("save"), "what the last snapshot holds")
        objections.append(f"appendonly is off: of state, fills and orders a power cut leaves {left}")
    elif appendonly is None:
        remarks.append(
            "whether the server persists anything can't be told: it shows neither CONFIG GET nor INFO persistence"
        )
    else:
        sync = facts.get("appendfsync", "")
        remarks.append(
            _SYNC.get(sync, "how often the append-only file is synced can't be told: CONFIG GET is not permitted")
        )
    policy, maxmemory = facts.get("maxmemory-policy"), facts.get("maxmemory")
    if maxmemory is None or policy is None:
        remarks.append("whether the server evicts keys can't be told: it shows neither CONFIG GET nor INFO memory")
    elif maxmemory != "0" and policy != "noeviction":
        objections.append(
            f"maxmemory-policy is {policy}: a full memory evicts the state or what guards against repeats, in silence"
        )
    return Permit(tuple(objections), tuple(remarks))


def live_permit(facts: Mapping[str, str], *, allow_volatile: bool, token_file: str, release: str, now: float) -> Permit:
    """Both together. `allow_volatile` turns what speaks against the server into remarks."""
    lasting = durability(facts)
    if allow_volatile:
        lasting = Permit((), (*lasting.objections, *lasting.remarks))
    if not token_file:
        return lasting
    try:
        return lasting._replace(until=token_expiry(Path(token_file), release, now))
    except TokenError as fault:
        return lasting._replace(objections=(*lasting.objections, f"no valid live token: {fault}"))
