"""The fault machine and the tests that go with it. See docs/faults.md.

    python -m tests.faults --help

`script` writes what the producers say, `reference` knows what must come of it, `machine` holds the two against each
other, `chaos` breaks things meanwhile, `episode` is one run of all that and `campaign` many. `proxy`, `resp` and `taps`
are the wire that can be cut at an exact point, `nursery` starts daemons fast, `planted` holds the faults to be found.
"""
