"""What state everything around the daemon is in, and what each thing means: for whoever wonders why nothing comes out.

Reads only. The consumer group is explained first of all, since it is what Redis tools show, while what counts is the
cursor in the state: the group is moved along in each commit, and moving it by hand changes nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import redis

from harvest_brain.core.events import parse_id
from harvest_brain.ops.status import Overview, overview
from harvest_brain.permit import Permit
from harvest_brain.redis.figures import Figures
from harvest_brain.redis.names import Names


class Finding(NamedTuple):
    """One thing that was looked at. `trouble` says that somebody should act."""

    subject: str
    trouble: bool
    text: str

    def line(self) -> str:
        return f"{'!!' if self.trouble else 'ok'}  {self.subject:<12}  {self.text}"


def examine(client: redis.Redis, names: Names, configured_mode: str, start: str) -> list[Finding]:
    """Every finding, in the order in which to read them. Raises what `overview` raises."""
    call: Any = client
    # The group moves with every commit, so it is looked at on both sides of the look at the cursor.
    earlier = _group_of(call, names)
    seen = overview(client, names, configured_mode)
    figures, group = None, _group_of(call, names)
    if call.exists(names.executions):
        figures = Figures.of(call.xinfo_stream(names.executions))
    return [
        _stream(names, figures),
        _cursor(seen, figures, group, start),
        *_group(names, seen, earlier, group),
        *_waiting(seen, figures),
        _lease(seen),
        _mode(seen),
        Finding("kill-switch", "stopped" in seen.kill_switch, seen.kill_switch),
        *_dead_letters(call, names, seen),
        *(Finding("suspect", True, f"{p.key} is tracked and not harvested: {p.suspect}")
          for p in seen.positions if p.suspect),
    ]  # fmt: skip


def of_durability(durable: Permit, configured_mode: str) -> list[Finding]:
    """What the server could lose. It is trouble in live mode, where it keeps the daemon in shadow."""
    return [
        *(Finding("durability", configured_mode == "live", text) for text in durable.objections),
        *(Finding("durability", False, text) for text in durable.remarks),
    ]


def _stream(names: Names, figures: Figures | None) -> Finding:
    if figures is None:
        why = "nothing was written to it yet, or the producers use another name than STREAM_EXECUTION_RESULT"
        return Finding("stream", True, f"{names.executions} does not exist: {why}")
    return Finding("stream", False, f"{names.executions} holds {figures.length} entries, the last one {figures.last}")


def _cursor(seen: Overview, figures: Figures | None, group: dict[str, Any] | None, start: str) -> Finding:
    if not seen.cursor:
        if group is not None:
            place = f"behind {group['last-delivered-id'].decode()}, where the group of an older consumer stands"
        else:
            place = "at the oldest entry" if start == "0" else "behind the newest entry"
            place += f" (HARVEST_START={start})"
        return Finding("cursor", False, f"there is no state yet; a first start begins {place}")
    if figures is not None and figures.are_of_another_stream(seen.cursor, seen.entries_read):
        text = f"{seen.cursor} is of another stream: this one, whose last id is {figures.last}, was made anew"
        return Finding("cursor", True, f"{text}. The daemon reads what of it lies behind the cursor, or all")
    return Finding("cursor", False, f"everything up to {seen.cursor} is in the state")


def _group_of(call: Any, names: Names) -> dict[str, Any] | None:
    groups = call.xinfo_groups(names.executions) if call.exists(names.executions) else []
    return next((found for found in groups if found["name"] == names.group.encode()), None)


def _group(names: Names, seen: Overview, earlier: dict[str, Any] | None, group: dict[str, Any] | None) -> list[Finding]:
    if group is None:
        return [Finding("group", bool(seen.cursor), f"{names.group} does not exist; the daemon makes it at its cursor")]
    place, findings = group["last-delivered-id"].decode(), []
    before = (earlier or group)["last-delivered-id"].decode()
    if not seen.cursor:
        findings.append(Finding("group", False, f"{names.group} stands at {place}"))
    elif parse_id(before) <= parse_id(seen.cursor) <= parse_id(place):
        findings.append(Finding("group", False, f"{names.group} stands at the cursor, as it should"))
    else:
        text = f"{names.group} stands at {place} and not at the cursor: it was moved by hand. That changes nothing"
        findings.append(Finding("group", True, f"{text}; what is read follows the cursor, and so will the group again"))
    if group["pending"]:
        text = f"{group['pending']} entries were handed out by XREADGROUP and not acknowledged"
        if seen.cursor:
            text += ". HarvestBrain reads by its cursor and misses none of them, but nothing else should use its group"
        else:
            text += ", up to where a first start begins: they will not be read. XGROUP SETID before it changes that"
        findings.append(Finding("pending", True, text))
    return findings


def _waiting(seen: Overview, figures: Figures | None) -> list[Finding]:
    if figures is None:
        return []
    findings = []
    if seen.lag is None:
        findings.append(Finding("lag", False, "the server can't tell how many entries wait until the next commit"))
    elif seen.lag and not seen.leader:
        findings.append(Finding("lag", True, f"{seen.lag} entries wait, and no daemon leads"))
    else:
        findings.append(Finding("lag", False, f"{seen.lag} entries wait"))
    if seen.cursor and (missed := figures.missed(seen.cursor, seen.entries_read, ())):
        text = f"{missed} entries were removed before they were read: the daemon will distrust what was open by then"
        findings.append(Finding("gap", True, text))
    return findings


def _lease(seen: Overview) -> Finding:
    if not seen.leader:
        return Finding("lease", True, "nobody leads: no daemon runs, or none reaches this Redis")
    return Finding("lease", False, f"{seen.leader} leads, for {seen.lease_ms / 1000:.1f} s more if it falls silent")


def _mode(seen: Overview) -> Finding:
    if seen.because:
        return Finding("mode", True, f"{seen.mode}, although live was asked for: {seen.because}")
    if seen.mode != seen.configured_mode:
        text = f"the state was written in {seen.mode}, and the settings here say {seen.configured_mode}"
        return Finding("mode", True, f"{text}: the daemon runs with others, or was not started since")
    return Finding("mode", False, seen.mode)


def _dead_letters(call: Any, names: Names, seen: Overview) -> list[Finding]:
    count = seen.streams[names.rejected]
    latest = call.xrevrange(names.rejected, count=1)
    if not latest:
        return [Finding("dead letters", False, "none")]
    # Others may write there too.
    newest = ": ".join(latest[0][1].get(field, b"?").decode(errors="replace") for field in (b"id", b"reason"))
    return [Finding("dead letters", False, f"{count} entries could not be used, the newest {newest}")]
