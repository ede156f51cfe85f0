"""Mutation testing of commit.lua, which no mutator for Python reaches.

    python -m tests.mutation.commit [--only PATTERN] [--again FILE]

Changes the script in one place at a time (a comparison, a number, `and` to `or`, a check or a write left out) in a copy
of the package, and runs the tests of the commit on it against a real Redis. Prints what survives, which `--again` tries
again; a change that is no Lua is counted apart. `EQUIVALENT` says of each survivor that can't be noticed why.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
SCRIPT = Path("harvest_brain/redis/commit.lua")
TESTS = "tests/integration/test_commit_script.py"
TIMEOUT_SEC = 600

SWAPS = (
    *((r"==", "~="), (r"~=", "=="), (r"(?<![<>~=])<(?!=)", "<="), (r"<=", "<"), (r"(?<![<>~=-])>(?!=)", ">=")),
    *((r"\band\b", "or"), (r"\bor\b", "and"), (r"\bnot ", ""), (r" \+ ", " - "), (r" - ", " + ")),
    *((r"'0'", "'9'"), (r"'1'", "'9'"), (r"\btrue\b", "false"), (r"\bfalse\b", "true")),
)
NUMBER = re.compile(r"(?<![\w.'])\d+(?![\w.'])")
# A whole line that checks or writes, and can be left out.
DROPPABLE = re.compile(r"\s*(if .* end|need\(.*\)|redis\.call\(.*\))$")

LEFT_OUT = "(left out)"

# Survivors that make no difference, by the line and the change, and why.
_CLOCK = "It takes a millisecond of the server's own clock to tell, which no test can hit."
_MORE = "It asks for rights that this commit does not need, and that every user has who may publish."
EQUIVALENT: dict[tuple[str, str], str] = {
    (
        "local FUTURE_MS, MINUTE_MS, HISTORY = 5000, 60000, 100",
        "local FUTURE_MS, MINUTE_MS, HISTORY = 5001, 60000, 100",
    ): _CLOCK,
    (
        "local now = time[1] * 1000 + math.floor(time[2] / 1000)",
        "local now = time[1] * 1000 + math.floor(time[2] / 1001)",
    ): _CLOCK,
    (
        "for i = 1, #info, 2 do",
        "for i = 1, #info, 3 do",
    ): "What is looked for stands at the seventh place of the reply, which steps of three reach too.",
    (
        "if ARGV[5] ~= ARGV[4] then",
        "if ARGV[6] ~= ARGV[4] then",
    ): _MORE,
    (
        "need('XGROUP', 'SETID', KEYS[5], ARGV[6], '0', 'ENTRIESREAD', '0')",
        "need('XGROUP', 'SETID', KEYS[5], ARGV[7], '0', 'ENTRIESREAD', '0')",
    ): "Of what `need` asks the rights for, only command and key count.",
    (
        "if fills > 0 then need('SET', KEYS[first_fill], '', 'EX', '1') end",
        "if fills > 0 then need('SET', KEYS[first_fill], '', 'EX', '9') end",
    ): "Of what `need` asks the rights for, only command and key count.",
    (
        "if letters > 0 then need('XADD', KEYS[6], '*', '', '') end",
        "if letters >= 0 then need('XADD', KEYS[6], '*', '', '') end",
    ): _MORE,
    (
        "if now - ARGV[10] > tonumber(ARGV[9]) or ARGV[11] - now > FUTURE_MS then return {'stale'} end",
        "if now - ARGV[10] >= tonumber(ARGV[9]) or ARGV[11] - now > FUTURE_MS then return {'stale'} end",
    ): _CLOCK,
    (
        "if now - ARGV[10] > tonumber(ARGV[9]) or ARGV[11] - now > FUTURE_MS then return {'stale'} end",
        "if now - ARGV[10] > tonumber(ARGV[9]) or ARGV[11] - now >= FUTURE_MS then return {'stale'} end",
    ): _CLOCK,
    (
        "if oldest and now - oldest < MINUTE_MS then return {'rate'} end",
        "if oldest and now - oldest <= MINUTE_MS then return {'rate'} end",
    ): _CLOCK,
}


class Mutant(NamedTuple):
    """A change of the line `number` from `before` to `after`, both without what surrounds them."""

    number: int
    before: str
    after: str
    source: str


def mutants(source: str) -> Iterator[Mutant]:
    """Every change, in the order of the lines. Comments and the header are left alone."""
    lines = source.splitlines()
    begin = lines.index("]]") + 1
    for number, line in enumerate(lines[begin:], begin):
        code = line.partition("--")[0]
        # Of what `need` asks the rights for, only command and key count.
        asks = code.strip().startswith("need(")
        changed = [
            code[: found.start()] + after + code[found.end() :]
            for before, after in SWAPS
            for found in re.finditer(before, code)
            if not asks
        ]
        changed += [
            code[: found.start()] + str(int(found[0]) + 1) + code[found.end() :] for found in NUMBER.finditer(code)
        ]
        if DROPPABLE.fullmatch(code):
            changed.append("")
        for after in changed:
            text = "\n".join([*lines[:number], after, *lines[number + 1 :]]) + "\n"
            yield Mutant(number + 1, code.strip(), after.strip(), text)


def run(package: Path) -> tuple[bool, str]:
    """Whether the tests pass on the package below `package`, and what they said."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", TESTS, "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SEC,
        check=False,
    )
    return done.returncode == 0, done.stdout


def main() -> int:
    parser = argparse.ArgumentParser(description="Mutation testing of commit.lua.")
    parser.add_argument("--only", default="", help="only lines that match this pattern")
    parser.add_argument("--again", type=Path, help="only what an earlier run has printed into this file")
    options = parser.parse_args()
    only = re.compile(options.only)
    again = options.again and re.findall(r"^\d+: (.*)\n  -> (.*)$", options.again.read_text(), re.MULTILINE)
    began, killed, invalid, explained, survived = time.monotonic(), 0, 0, 0, 0
    with tempfile.TemporaryDirectory() as directory:
        package = Path(directory)
        shutil.copytree(ROOT / "service/harvest_brain", package / "harvest_brain")
        source = (package / SCRIPT).read_text()
        passes, said = run(package)
        if not passes:
            print(said, "\nthe tests fail on the script as it is", file=sys.stderr)
            return 2
        for mutant in mutants(source):
            change = (mutant.before, mutant.after or LEFT_OUT)
            if not only.search(mutant.before) or (again is not None and change not in again):
                continue
            (package / SCRIPT).write_text(mutant.source)
            passes, said = run(package)
            if not passes:
                invalid += "Error compiling script" in said
                killed += "Error compiling script" not in said
            elif change in EQUIVALENT:
                explained += 1
            else:
                survived += 1
                print(f"{mutant.number}: {change[0]}\n  -> {change[1]}", flush=True)
    minutes = (time.monotonic() - began) / 60
    print(f"killed {killed}, survived {survived}, make no difference {explained}, no Lua {invalid}; {minutes:.0f} min")
    return 1 if survived else 0


if __name__ == "__main__":
    raise SystemExit(main())
