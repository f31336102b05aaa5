"""The limits of a request. The limits of an event, such as MAX_EVENT_BYTES, are in contract/event_limits.py."""

MAX_BODY_BYTES = 1024 * 1024
MAX_EVENTS = 500
MAX_INFLATED_BYTES = 4 * 1024 * 1024
# A body may inflate to MAX_INFLATION times its size plus FREE_INFLATED_BYTES, so that CPU stays proportional to the
# bytes sent. FREE_INFLATED_BYTES ensures that a single event, which has at most 64 KiB, is never too large.
MAX_INFLATION = 100
FREE_INFLATED_BYTES = 64 * 1024
MAX_GZIP_MEMBERS = 64
