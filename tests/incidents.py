"""Failures that systems for this job have had in the field, and the tests that would have caught each here.

    python -m tests.incidents > docs/incidents.md

A test that holds a row is named after it: `test_incident_05_...` holds row 5. The page is made from this table and from
the tests that exist, so it can't name a test that doesn't.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEST = re.compile(r"^(?:async )?def (test_incident_(\d\d)_\w+)", re.MULTILINE)

# What happened -> what makes it impossible here.
ROWS: dict[int, tuple[str, str]] = {
    1: (
        "No real fill was understood: the reader knew only messages made by hand.",
        "Every shape that producers send is read, from samples of the field; what can't be read is a dead letter.",
    ),
    2: (
        'A long was "harvested" with a BUY.',
        "One type for sides from the door on; a harvest always shrinks the position.",
    ),
    3: (
        "R = 100 where it was 0.1: total profit over risk per unit.",
        "R is per unit over per unit, whatever the quantity.",
    ),
    4: (
        "Ten ticks sold one and a half times the position.",
        "A rung fires once per epoch; harvests never exceed the peak.",
    ),
    5: ("A jump past all rungs fired one of them.", "One order lists all rungs that were crossed."),
    6: ("An order vanished: it was marked as sent, then sending failed.", "Marking and sending are one atomic step."),
    7: ("A replayed fill doubled the position.", "Fills have identities, kept with the state."),
    8: (
        "A re-entry kept the old entry price and fired at once.",
        "An epoch ends with its position, and all of it with it.",
    ),
    9: (
        "Failed entries were acknowledged and never seen again.",
        "The cursor passes an entry only together with its effect.",
    ),
    10: ("The kill-switch stopped the book-keeping too.", "The switch stops publishing only."),
    11: (
        "After a restart a backlog was traded as if it were new; a missing reduceOnly opened positions.",
        "Freshness is checked at the publish; reduce-only stands under both names; never more than is held.",
    ),
    12: (
        "The reader fell hundreds of thousands of entries behind and lost what was trimmed.",
        "Batches; the lag is shown; a trimmed gap is noticed.",
    ),
    13: (
        "An offset was set and had no effect, since the group existed already.",
        "An explicit rule for the start; `doctor` explains the group.",
    ),
    14: ("Twenty orders below the exchange's minimum.", "Down to the step, and what is below the minimum is carried."),
    15: ("Nothing was evaluated for days, since prices were missing.", "Reasons are counted and shown; health fails."),
    16: ("Entry price 0, from an acknowledgement without a price.", "Price and quantity above 0, or a dead letter."),
    17: ("Every close was sent twice: two instances ran.", "One leader, fenced in the commit."),
    18: ("A setting was set and ignored.", "An unknown name stops the start-up."),
    19: ('"Live" that was really shadow: two flags for one thing.', "One mode, shown everywhere."),
    20: ("Positions lost on restart, closed ones revived.", "The state is durable and moves with the cursor."),
    21: ("Other people's keys deleted at start.", "Only own keys are deleted, none is looked for with KEYS."),
    22: ("A million stale keys.", "A time to live or a bound on everything."),
    23: ("A close was never sent: the error was logged where nobody looks.", "An error is shown by status and health."),
    24: ("Stops of shorts on the wrong side.", "Signed formulas; every test runs for both sides."),
    25: ("The unit gave up after a burst of restarts.", "Back-off without a limit; a Redis outage is waited for."),
    26: (
        "A fix was lost on the next deploy: files edited by hand.",
        "Releases come from the bundle only; the proof shows drift.",
    ),
    27: ("Rolling back meant stopping, and asked questions.", "Back to the last proven release, without questions."),
    28: (
        "The proof passed on the wrong names and started the service itself.",
        "A read-only proof, each check of which is seen to fail.",
    ),
    29: ("A deploy cleared the kill-switch.", "One command clears it, and nothing else."),
    30: ("A stop kept its size after a partial close.", "The stop is sent again for what is left."),
    31: ("The high-water mark of an earlier position was used.", "It belongs to the epoch."),
    32: ("The same exit twice, while the first fill was on its way.", "What is on its way is reserved."),
    33: ("An unknown name crashed the consumer.", "The payload is tested against what each consumer looks for."),
    34: ("After a take-over entries were handled out of order.", "Reading has no effect; the cursor is fenced."),
}


def holders() -> dict[int, list[tuple[str, str]]]:
    """For each row the tests named after it: path below the project, name."""
    found: dict[int, list[tuple[str, str]]] = {row: [] for row in ROWS}
    for path in sorted(ROOT.glob("tests/**/*.py")):
        for name, row in TEST.findall(path.read_text()):
            found.setdefault(int(row), []).append((str(path.relative_to(ROOT)), name))
    return found


def page() -> str:
    """docs/incidents.md."""
    lines = [
        "# What went wrong elsewhere, and what holds it here",
        "",
        "Made by `python -m tests.incidents`; a test that holds a row is named after it.",
        "",
        "| # | what happened | what makes it impossible | held by |",
        "|---|---|---|---|",
    ]
    held = holders()
    for row, (symptom, cure) in ROWS.items():
        tests = "<br>".join(f"`{path}::{name}`" for path, name in held[row])
        lines.append(f"| {row} | {symptom} | {cure} | {tests} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
