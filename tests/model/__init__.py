"""The commit protocol, explored: every interleaving of a small instance, with the real daemon, store and scripts.

`server` is Redis as a value: what a command makes of it is found out on a real Redis, once. `process` is a daemon as a
value: what it does next is found out by running the real loop on the replies so far, once. `explore` goes through all
states that the two can get into together, from `instance`. See docs/faults.md.
"""
