"""Property tests have no deadline for each example: a machine may be many times slower than theirs.

HYPOTHESIS_PROFILE=thorough looks at a hundred times as many examples. The profile for mutation testing looks at few,
and always at the same ones, since it runs thousands of times and its verdicts should not depend on chance.
"""

import os

from hypothesis import HealthCheck, settings

settings.register_profile("patient", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("thorough", deadline=None, max_examples=5_000, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("mutation", deadline=None, max_examples=25, derandomize=True, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "patient"))
