"""The pure core: what HarvestBrain decides.

Nothing in here reads a clock, a file, the environment or a socket, and nothing logs. Time comes from the
entries, permission from the gate. That is why every rule can be tested with a plain function call, and why
the same entries, configuration and gates give the same intents, byte for byte.
"""
