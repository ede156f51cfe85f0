"""What is removed before it was read is noticed, exactly and only then: against a model of a stream."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harvest_brain.core.events import parse_id
from harvest_brain.redis.figures import Figures


def entry_id(number: int) -> str:
    return f"{number}-0"


@dataclass
class Stream:
    """A stream and one who reads it. Entries are numbered from 1."""

    entries: list[int] = field(default_factory=list)
    added: int = 0
    deleted: int = 0
    cursor: int = 0
    entries_read: int = 0
    lost: int = 0
    missed: int = 0

    def add(self, count: int) -> None:
        self.entries += range(self.added + 1, self.added + count + 1)
        self.added += count

    def trim(self, length: int) -> None:
        self._remove(self.entries[: max(len(self.entries) - length, 0)])

    def delete(self, place: int) -> None:
        if self.entries:
            gone = self.entries[place % len(self.entries)]
            self._remove([gone])
            self.deleted = max(self.deleted, gone)

    def _remove(self, gone: list[int]) -> None:
        self.entries = [number for number in self.entries if number not in gone]
        self.lost += sum(number > self.cursor for number in gone)

    def figures(self, *, counted_from: int | None = None) -> Figures:
        after = None
        if counted_from is not None and self.added > self.entries_read:
            after = sum(number > counted_from for number in self.entries)
        first = self.entries[0] if self.entries else 0
        return Figures(
            self.added, len(self.entries), entry_id(first), entry_id(self.added), entry_id(self.deleted), after
        )

    def take(self, size: int) -> list[int]:
        """Read the next batch; what is removed from now on is no loss."""
        batch = [number for number in self.entries if number > self.cursor][:size]
        self._before = self.cursor
        self.cursor = batch[-1] if batch else self.cursor
        return batch

    def judge(self, batch: list[int], size: int) -> None:
        full = len(batch) == size
        figures = self.figures(counted_from=None if full else self.cursor)
        assert not figures.are_of_another_stream(entry_id(self._before), self.entries_read)
        ids = [entry_id(number).encode() for number in batch]
        missed = figures.missed(entry_id(self._before), self.entries_read, ids)
        self.missed += missed
        self.entries_read += len(batch) + missed


change = st.one_of(
    st.tuples(st.just("add"), st.integers(1, 7)),
    st.tuples(st.just("trim"), st.integers(0, 9)),
    st.tuples(st.just("delete"), st.integers(0, 9)),
)
turn = st.tuples(st.lists(change, max_size=4), st.lists(change, max_size=2))


@given(st.lists(turn, max_size=15), st.integers(1, 6))
def test_the_count_of_missed_entries_is_exact_once_everything_is_read_and_never_too_high_before(
    turns: list[tuple[list[tuple[str, int]], list[tuple[str, int]]]], size: int
) -> None:
    stream = Stream()
    for before, between in turns:
        for name, number in before:
            getattr(stream, name)(number)
        batch = stream.take(size)
        for name, number in between:  # between the read and the look
            getattr(stream, name)(number)
        stream.judge(batch, size)
        assert stream.missed <= stream.lost
    batch = stream.take(10_000)
    stream.judge(batch, 10_000)
    assert stream.missed == stream.lost
    assert stream.entries_read == stream.added


def test_a_trim_of_unread_entries_is_noticed_while_there_is_still_a_backlog() -> None:
    stream = Stream()
    stream.add(10)
    stream.judge(stream.take(2), 2)
    stream.trim(5)
    stream.judge(stream.take(2), 2)
    assert stream.missed == 3


def test_trimming_behind_the_cursor_is_no_gap() -> None:
    stream = Stream()
    stream.add(10)
    stream.judge(stream.take(4), 4)
    stream.trim(6)
    stream.judge(stream.take(2), 2)
    stream.trim(0)
    assert stream.missed == 0


def test_what_was_read_and_trimmed_before_the_look_is_no_gap() -> None:
    stream = Stream()
    stream.add(10)
    batch = stream.take(4)
    stream.trim(8)
    stream.judge(batch, 4)
    assert stream.missed == 0


@pytest.mark.parametrize(
    ("figures", "other"),
    [
        (Figures(10, 5, "6-0", "10-0", "0-0"), False),
        (Figures(10, 0, "0-0", "10-0", "10-0"), False),
        (Figures(10, 6, "3-0", "10-0", "0-0"), False),
        (Figures(4, 4, "20-0", "23-0", "0-0"), True),  # begun anew with later ids
        (Figures(9, 9, "20-0", "28-0", "0-0"), True),  # and by now with as many entries
        (Figures(9, 5, "24-0", "28-0", "0-0"), True),  # some of which are gone
        (Figures(6, 0, "0-0", "28-0", "0-0"), False),  # the same or not: nothing speaks against it
        (Figures(10, 10, "1-0", "4-9", "0-0"), True),  # begun anew with earlier ids
        (Figures(0, 0, "0-0", "0-0", "0-0"), True),  # gone
    ],
)
def test_a_stream_that_was_begun_anew_is_recognised(figures: Figures, other: bool) -> None:
    assert figures.are_of_another_stream("5-0", 5) is other


def test_a_stream_of_which_nothing_was_read_is_any_stream() -> None:
    assert not Figures(0, 0, "0-0", "0-0", "0-0").are_of_another_stream("0-0", 0)


def test_ids_order_by_time_and_then_by_sequence() -> None:
    assert parse_id("9-0") < parse_id("10-0") < parse_id("10-2") < parse_id("10-11")
