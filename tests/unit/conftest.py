"""Property tests have no deadline for each example: a machine may be many times slower than theirs."""

from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
