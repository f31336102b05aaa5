"""The limits of a request. Those of a single event, such as MAX_EVENT_BYTES, are in contract/events.py."""

MAX_BODY_BYTES = 1024 * 1024
MAX_EVENTS = 500
MAX_INFLATED_BYTES = 4 * 1024 * 1024
# A body may inflate to so many times its size and FREE_INFLATED_BYTES, so that CPU stays in proportion to what was
# sent. A single event, 64 KiB at most, always may.
MAX_INFLATION = 100
FREE_INFLATED_BYTES = 64 * 1024
MAX_GZIP_MEMBERS = 64
# How far `createdAt` may be ahead of our clock, unless the stage's maxClockAheadSeconds (serverless/params.yml) allows
# more or less. No stage may allow more than contract.instants.MAX_CLOCK_AHEAD.
DEFAULT_CLOCK_AHEAD_SECONDS = 3600
