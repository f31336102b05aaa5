"""Simulate an outage of Kinesis, and one of Snowpipe: the backlog of each queue, and the time until recovery.

Run it with `python -m tools.outage_simulation`.
"""
