"""Fuzzing of what comes in, guided by the coverage of the code that it reaches (atheris, on libFuzzer).

    make fuzz SECONDS=600              # or: python -m tests.fuzz.decode_fuzz [libFuzzer options] DIRECTORY...

An input is an entry: names and values, each behind the other, between bytes that no text holds (0x1f). Inputs that
reach something new go to the first directory; one that breaks something is written to a file that libFuzzer names, and
`python -m tests.fuzz.decode_fuzz FILE` runs it again.
"""

from __future__ import annotations

import sys

SEPARATOR = b"\x1f"


def fields_of(data: bytes) -> list[bytes]:
    """The entry that an input stands for. A last name without a value is left out, as Redis would."""
    fields = data.split(SEPARATOR)
    return fields[: len(fields) // 2 * 2]


def main() -> None:
    import atheris  # type: ignore[import-untyped]  # carries no types, and is in an environment of its own

    with atheris.instrument_imports(include=["harvest_brain"]):
        from tests.fuzz.invariants import POLICIES, check_entry

    def one_input(data: bytes) -> None:
        # One policy an input keeps it quick; which one, the length says.
        check_entry(fields_of(data), [POLICIES[len(data) % len(POLICIES)]])

    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
