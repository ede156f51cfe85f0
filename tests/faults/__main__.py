"""The fault machine.

    python -m tests.faults --seed 7                    one episode, by its seed
    python -m tests.faults --kills 300                 episodes with the seeds 1, 2, ... until that many kills are done
    python -m tests.faults --seconds 3600 --record FILE
    python -m tests.faults --seed 7 --planted dedup-before-publish     a fault that it must find

Exits with 0 when nothing was violated, with 1 when something was, with 2 when the machine itself failed. What fails is
made as small as it fails, and the command that repeats it is printed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.faults.campaign import Campaign
from tests.faults.chaos import FAULTS
from tests.faults.episode import Episode
from tests.faults.planted import PLANTED
from tests.faults.script import Size


def main() -> int:
    options = _options()
    faults = FAULTS
    if options.faults:
        faults = tuple(options.faults.split(","))
        if unknown := set(faults) - set(FAULTS):
            raise SystemExit(f"no such fault: {', '.join(sorted(unknown))}; there are {', '.join(FAULTS)}")
    template = Episode(
        options.seed,
        Size(options.symbols, options.entries),
        options.rounds,
        faults,
        options.planted,
        options.container,
    )
    campaign = Campaign(template, cells=options.cells, record=options.record)
    return campaign.run(kills=options.kills, seconds=options.seconds, shrinks=not options.no_shrink)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1, help="of the first episode")
    parser.add_argument("--kills", type=int, default=0, help="go on until so many daemons and Redis were killed")
    parser.add_argument("--seconds", type=float, default=0, help="go on for so long")
    parser.add_argument("--symbols", type=int, default=Size.symbols, help="per episode")
    parser.add_argument("--entries", type=int, default=Size.entries, help="per episode")
    parser.add_argument("--rounds", type=int, default=Episode.rounds, help="about how many faults per episode")
    parser.add_argument("--faults", default="", help=f"only these, with commas: {', '.join(FAULTS)}")
    parser.add_argument("--planted", default="", choices=("", *PLANTED), help="plant a fault into the daemons")
    parser.add_argument("--container", action="store_true", help="Redis in a container instead of a process")
    parser.add_argument("--cells", type=int, default=2, help="episodes at the same time")
    parser.add_argument("--record", type=Path, help="file for the account of it as JSON, up to date after each episode")
    parser.add_argument("--no-shrink", action="store_true", help="leave what fails as it is")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
