"""The limits of an event: its size and depth, its ids, and how old or how far ahead of our clock it may be."""

from datetime import timedelta

MAX_EVENT_BYTES = 64 * 1024
MAX_DEPTH = 32
MAX_ID_CHARS = 128
MAX_ID_BYTES = 256

# Rejects times such as the year 8, which a phone with another calendar may send. The archive keeps events for 400 days.
MAX_AGE_AT_RECEIPT = timedelta(days=400)
# The consumer skips geofence events that are older on arrival. The visits table keeps events for 90 days, so it still
# contains those of the ten days before any event that the consumer accepts.
MAX_AGE = timedelta(days=80)

# How far `createdAt` may be ahead of our clock, unless the stage's maxClockAheadSeconds allows more or less.
DEFAULT_CLOCK_AHEAD_SECONDS = 3600
MAX_CLOCK_AHEAD = timedelta(hours=24)  # the most that a stage can allow

# A longer or negative duration counts as unknown. Huge numbers would make sums and averages infinite.
MAX_DURATION_MINUTES = 400 * 24 * 60
MAX_LITRES = 1_000_000  # of a pickup; the warehouse ignores larger or negative numbers

# The maximum number of different contents of one event (same `Owned.event_key`) that the warehouse keeps, in order of
# receipt: the first in staging, the others as conflicts. Further contents are only in the archive and in RAW. For
# visits, one content counts (consumer.visits.content_of).
MAX_CONTENTS_PER_EVENT = 16
