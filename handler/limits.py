"""The limits of a request. One event's, such as MAX_EVENT_BYTES, are in contract/events.py; how far `createdAt` may be
ahead of our clock is the stage's parameter maxClockAheadSeconds.
"""

MAX_BODY_BYTES = 1024 * 1024
MAX_EVENTS = 500
MAX_INFLATED_BYTES = 4 * 1024 * 1024
# A body may inflate to so many times its size and FREE_INFLATED_BYTES, so that CPU stays in proportion to what was
# sent. A single event, 64 KiB at most, always may.
MAX_INFLATION = 100
FREE_INFLATED_BYTES = 64 * 1024
MAX_GZIP_MEMBERS = 64
