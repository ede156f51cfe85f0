"""Explore the commit protocol with a larger ration of faults than the tests do.

    python -m tests.model --cuts 2 --expiries 1 [--mode live] [--record FILE]

Exits with 0 when all states were seen and nothing is wrong in any of them; otherwise it prints the way to one with 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from tests.model.explore import Ration
from tests.model.instance import Instance
from tests.model.server import client_of
from tests.support.server import ProcessServer


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.model", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in Ration._fields:
        parser.add_argument(f"--{name}", type=int, default=0)
    parser.add_argument("--mode", choices=("shadow", "live"), default="live")
    parser.add_argument("--record", type=Path, help="file for the account of it, as JSON")
    options = parser.parse_args()
    ration = Ration(*(getattr(options, name) for name in Ration._fields))
    began = time.monotonic()
    with ProcessServer() as server:
        explorer = Instance(client_of(server.port), options.mode).explorer()
        breach = explorer.explore(ration)
    if breach is not None:
        print(f"{breach.kind}: {breach.text}", *breach.path, sep="\n  ")
        return 1
    account = {
        "mode": options.mode,
        "ration": ration._asdict(),
        "states": explorer.states,
        "steps": dict(sorted(explorer.steps.items())),
        "commits_answered": {code.decode(): number for code, number in sorted(explorer.replies.items())},
        "outcomes": len(explorer.outcomes),
        "breaches": 0,
        "seconds": round(time.monotonic() - began),
    }
    print(json.dumps(account))
    if options.record is not None:
        options.record.write_text(json.dumps(account, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
