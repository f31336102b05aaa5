"""Simulate an hour without Kinesis or Snowpipe: the backlog of each part, and how long recovery takes.

Run it with `python -m tools.fleet.simulate`.
"""
