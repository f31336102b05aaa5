"""Hypothesis settings for all unit tests."""

from hypothesis import HealthCheck, settings

# The time per example is meaningless on a machine that is shared with other test processes.
settings.register_profile("milkrun", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("milkrun")
