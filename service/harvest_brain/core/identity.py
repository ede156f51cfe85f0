"""What makes two entries the same fill, and the names under which that is remembered.

A name is `key#kind#id`. No key holds a `#`, so whatever stands in an id, no name can be read in two ways.
"""

from __future__ import annotations

from harvest_brain.core.events import Fill, Key
from harvest_brain.core.numbers import plain


def marks_of(fill: Fill) -> dict[str, str]:
    """What is remembered of a fill, content by name; the first name is its identity.

    The producer's fill id; else the order, when it counts what was filled so far (then that is the content), or says
    that it is complete. What a fill says of its order as a whole is remembered whatever its own identity is, so that an
    entry of the same order that says less is recognised. Without any name the entry is the only evidence there is, and
    the cursor guards it: two equal partial fills are legitimate.
    """
    marks: dict[str, str] = {}
    order = fill.order.order_id or fill.order.client_order_id
    if fill.fill_id:
        marks[f"{fill.key}#fill#{fill.fill_id}"] = f"{fill.side} {plain(fill.qty)} @ {plain(fill.price)}"
    if order and fill.cumulative is not None:
        marks[f"{fill.key}#cumulative#{order}"] = plain(fill.cumulative)
    if order and fill.complete:
        total = fill.qty if fill.cumulative is None else fill.cumulative
        marks[f"{fill.key}#filled#{order}"] = f"{fill.side} {plain(total)} @ {plain(fill.price)}"
    return marks


def last_fill_name(key: Key) -> str:
    """The name under which it is remembered when the last fill of a position was, in milliseconds."""
    return f"{key}#last"
