"""Simulate an hour without AWS or Snowflake: how much waits where, and for how long.

Run it with `python -m tools.fleet.simulate`.
"""
