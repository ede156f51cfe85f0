"""What the tests stand on: a real Redis, the real daemon as a process, and patience.

`server`: Redis in a container or as a process. `daemon`: `python -m harvest_brain run` and the command line.
`waiting`: `wait_until`. `wire`: entries that go in and intents that come out. `engine`: which containers can run.
"""
