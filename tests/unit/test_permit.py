"""Whether live mode may be live: each thing that speaks against it is said, and nothing is guessed."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from harvest_brain.permit import NEVER, Permit, TokenError, durability, live_permit, token_expiry

SAFE = {"appendonly": "yes", "appendfsync": "always", "save": "", "maxmemory": "0", "maxmemory-policy": "noeviction"}
RELEASE = "1.4.0-0a1b2c3d4e5f"
EXPIRES = "2026-01-18T12:00:00Z"
NOW = datetime(2026, 1, 18, 11, 59, 59, tzinfo=UTC).timestamp()


def facts(**changes: str | None) -> dict[str, str]:
    changed = SAFE | {name.replace("_", "-"): value for name, value in changes.items()}
    return {name: value for name, value in changed.items() if value is not None}


@pytest.fixture
def token(tmp_path: Path) -> Path:
    return write(tmp_path / "live-token.json")


def write(path: Path, **changes: Any) -> Path:
    fields = {"release": RELEASE, "evidence": "sha256:" + "0f" * 32, "expires": EXPIRES} | changes
    path.write_text(json.dumps({name: value for name, value in fields.items() if value is not None}))
    return path


# Durability.


@pytest.mark.parametrize(
    ("sync", "said"),
    [
        ("always", "loses nothing that was acknowledged"),
        ("everysec", "can lose the last second or two"),
        ("no", "what the operating system has not written yet"),
        (None, "how often the append-only file is synced can't be told"),
    ],
)
def test_with_an_append_only_file_it_says_what_a_power_cut_could_lose(sync: str | None, said: str) -> None:
    found = durability(facts(appendfsync=sync))
    assert found.objections == ()
    [remark] = found.remarks
    assert said in remark


@pytest.mark.parametrize(
    ("save", "left"),
    [("", "nothing at all (save is off)"), ("3600 1", "what the last snapshot holds"), (None, "if there is one")],
)
def test_without_one_it_objects_and_says_what_would_be_left(save: str | None, left: str) -> None:
    [objection] = durability(facts(appendonly="no", save=save)).objections
    assert "appendonly is off" in objection
    assert left in objection


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl", "allkeys-random"])
def test_it_objects_to_a_memory_that_evicts(policy: str) -> None:
    [objection] = durability(facts(maxmemory="1048576", maxmemory_policy=policy)).objections
    assert policy in objection
    assert durability(facts(maxmemory="0", maxmemory_policy=policy)).objections == ()
    assert durability(facts(maxmemory="1048576")).objections == ()


def test_what_the_server_does_not_show_it_can_not_tell_and_says_so() -> None:
    found = durability({})
    assert found.objections == ()
    assert [("persists" in remark, "evicts" in remark) for remark in found.remarks] == [(True, False), (False, True)]
    assert all("can't be told" in remark for remark in found.remarks)
    assert "evicts" in durability(facts(maxmemory_policy=None)).remarks[-1]


# The token.


def test_a_token_for_this_release_is_valid_until_it_expires(token: Path) -> None:
    assert token_expiry(token, RELEASE, NOW) == NOW + 1
    with pytest.raises(TokenError, match="expired at 2026-01-18T12:00:00Z"):
        token_expiry(token, RELEASE, NOW + 1)


def test_an_offset_from_utc_is_understood(tmp_path: Path) -> None:
    path = write(tmp_path / "token", expires="2026-01-18T14:00:00+02:00")
    assert token_expiry(path, RELEASE, NOW) == NOW + 1


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"release": "1.3.0-ffffffffffff"}, "is for release '1.3.0-ffffffffffff', and this is '1.4.0-0a1b2c3d4e5f'"),
        ({"evidence": "md5:00"}, "evidence 'md5:00' is not sha256: and 64 hex digits"),
        ({"evidence": "sha256:" + "0" * 65}, "is not sha256: and 64 hex digits"),
        ({"expires": "2026-01-18T12:00:00"}, "has no offset from UTC"),
        ({"expires": "soon"}, "is no live token"),
        ({"expires": None}, "is no live token: it lacks 'expires'"),
        ({"release": None}, "is no live token"),
    ],
)
def test_what_is_no_valid_token_says_why(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    path = write(tmp_path / "token", **changes)
    with pytest.raises(TokenError) as refusal:
        token_expiry(path, RELEASE, NOW)
    assert complaint in str(refusal.value)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize("text", ["", "[]", "17", "null", "\udcff"])
def test_what_is_no_json_object_is_no_token(tmp_path: Path, text: str) -> None:
    path = tmp_path / "token"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(TokenError, match="is no live token"):
        token_expiry(path, RELEASE, NOW)


def test_a_missing_token_says_so(tmp_path: Path) -> None:
    with pytest.raises(TokenError, match="No such file"):
        token_expiry(tmp_path / "none", RELEASE, NOW)


def test_a_token_for_no_release_fits_none(tmp_path: Path) -> None:
    with pytest.raises(TokenError, match="for release ''"):
        token_expiry(write(tmp_path / "token", release=""), "", NOW)


# Both.


def permit(changed: dict[str, str], *, token_file: str = "", volatile: bool = False) -> Permit:
    return live_permit(changed, allow_volatile=volatile, token_file=token_file, release=RELEASE, now=NOW)


def test_where_no_token_is_asked_for_none_is_needed() -> None:
    assert permit(facts()) == durability(facts())
    assert permit(facts()).until == NEVER


def test_a_valid_token_gives_the_permit_its_end(token: Path) -> None:
    assert permit(facts(), token_file=str(token)).objections == ()
    assert permit(facts(), token_file=str(token)).until == NOW + 1


def test_every_objection_is_said(tmp_path: Path) -> None:
    found = permit(facts(appendonly="no"), token_file=str(tmp_path / "none"))
    assert "appendonly is off" in found.objections[0]
    assert found.objections[1].startswith("no valid live token: ")
    assert found.until == NEVER


def test_a_volatile_server_can_be_allowed_and_is_still_spoken_of(tmp_path: Path) -> None:
    volatile = facts(appendonly="no", maxmemory="1", maxmemory_policy="allkeys-lru")
    found = permit(volatile, volatile=True)
    assert found.objections == ()
    assert found.remarks[:2] == durability(volatile).objections
    assert permit(volatile, volatile=True, token_file=str(tmp_path / "none")).objections != ()
