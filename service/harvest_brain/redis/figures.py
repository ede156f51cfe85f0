"""The execution stream's own figures against the cursor: entries that nobody will ever read are noticed.

A stream counts what was ever added to it. The state counts what lies behind the cursor. When all that is there was
read, both counts are equal; if not, entries were trimmed or deleted before they were read. While there is a backlog a
trim shows earlier: the first entry lies behind the cursor, and more were removed than read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from harvest_brain.core.events import parse_id


class Figures(NamedTuple):
    """`added`: entries ever added; `length`: entries there are; ids of the `first` one, of the `last` one ever added,
    and the highest that was `deleted` by itself; `after`: entries after the cursor, where that was counted. Without
    any they are those of a stream that does not exist."""

    added: int = 0
    length: int = 0
    first: str = "0-0"
    last: str = "0-0"
    deleted: str = "0-0"
    after: int | None = None

    @classmethod
    def of(cls, stream: Mapping[str, Any]) -> Figures:
        """Those in a reply to XINFO STREAM."""
        ids = ("recorded-first-entry-id", "last-generated-id", "max-deleted-entry-id")
        return cls(stream["entries-added"], stream["length"], *(stream[name].decode() for name in ids))

    def are_of_another_stream(self, cursor: str, entries_read: int) -> bool:
        """Whether the stream can't be the one of which `entries_read` entries up to `cursor` were read: it never had so
        many, or has none of them left and has not removed so many."""
        known = self.length and parse_id(self.first) <= parse_id(cursor)
        removed = self.added - self.length
        return parse_id(self.last) < parse_id(cursor) or (self.added if known else removed) < entries_read

    def missed(self, cursor: str, entries_read: int, batch: Sequence[bytes]) -> int:
        """How many entries were removed unread, when `entries_read` up to `cursor` and then the ids of `batch` were
        read. 0 also where that can't be told before the backlog is worked off."""
        if self.after is not None:
            return self.added - entries_read - len(batch) - self.after
        first = parse_id(self.first)
        if self.length and (first <= parse_id(cursor) or first < parse_id(self.deleted)):
            return 0
        trimmed_after_reading = sum(not self.length or parse_id(entry_id.decode()) < first for entry_id in batch)
        return max(self.added - self.length - entries_read - trimmed_after_reading, 0)
