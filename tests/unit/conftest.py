"""Hypothesis settings for all unit tests."""

from hypothesis import HealthCheck, settings

# Set no deadline per example, because other test processes on this machine slow the tests down.
settings.register_profile("milkrun", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("milkrun")
