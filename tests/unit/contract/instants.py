"""Accepted and rejected times for tests of all readers: handler, JSON schema, dbt, SQL files, SQLite and Spark."""

# The text that a phone sends, and its UTC time truncated to microseconds
ACCEPTED = [
    ("2026-11-28T13:00:00.123Z", "2026-11-28T13:00:00.123000"),  # RFC 3339
    (
        "2026-11-28T13:00:00.123+0000",
        "2026-11-28T13:00:00.123000",
    ),  # Radar's iOS SDK, Java's SimpleDateFormat
    ("2026-11-28T13:00:00-0330", "2026-11-28T16:30:00.000000"),
    ("2026-11-28T13:00:00+00", "2026-11-28T13:00:00.000000"),  # PostgreSQL
    ("2026-11-28T13:00:00.5-03", "2026-11-28T16:00:00.500000"),
    ("2026-11-28T13:00:00-00:00", "2026-11-28T13:00:00.000000"),  # RFC 3339: UTC with an unknown local offset
    ("2026-11-28t13:00:00z", "2026-11-28T13:00:00.000000"),
    ("2026-11-28 13:00:00+00:00", "2026-11-28T13:00:00.000000"),  # Python's str()
    ("2026-11-28 13:00:00 +0100", "2026-11-28T12:00:00.000000"),  # Ruby, NSDate's description
    ("2026-11-28 13:00:00 Z", "2026-11-28T13:00:00.000000"),
    ("2026-11-28T13:00:00,25Z", "2026-11-28T13:00:00.250000"),  # the decimal comma of ISO 8601
    ("2026-11-28T13:00:00,123456789+01:00", "2026-11-28T12:00:00.123456"),
    ("2026-11-28T13:00:00.1Z", "2026-11-28T13:00:00.100000"),
    ("2026-11-28T13:00:00.1234567Z", "2026-11-28T13:00:00.123456"),  # .NET
    ("2026-11-28T13:00:00.999999999999Z", "2026-11-28T13:00:00.999999"),
    ("2026-11-28T13:00Z", "2026-11-28T13:00:00.000000"),  # java.time omits seconds that are 0
    ("2026-11-28T13:00+05:45", "2026-11-28T07:15:00.000000"),
    ("2026-11-28 13:00-08", "2026-11-28T21:00:00.000000"),
    ("2026-11-28T13:00:00\u221203:00", "2026-11-28T16:00:00.000000"),  # the minus sign of ISO 8601 and ICU
    ("2026-11-28T09:59:59.999999-14:00", "2026-11-28T23:59:59.999999"),
    ("2026-02-28T23:30:00-01:00", "2026-03-01T00:30:00.000000"),
]

# Ambiguous or invalid times, and the format that the error message names ("" if it has no name)
REJECTED = [
    ("2026-11-28T13:00:00", "without an offset"),
    ("2026-11-28 13:00", "without an offset"),
    ("2026-11-28", "a date without a time"),
    ("1795870800", "a Unix timestamp"),
    ("1795870800123", "a Unix timestamp"),
    ("1795870800.123", "a Unix timestamp"),
    ("2026-11-28T01:00:00 PM", "a time on a 12-hour clock"),
    ("2026-11-28T01:00:00 p.m. +0000", "a time on a 12-hour clock"),
    ("11/28/2026 1:00 PM", "a time on a 12-hour clock"),
    ("2026-11-28 13:00:00 UTC", "name of a time zone"),
    ("2026-11-28T13:00:00EST", "name of a time zone"),
    ("20261128T130000Z", "a date without hyphens"),
    ("2026-W48-6T13:00:00Z", "a week date"),
    ("2026-02-30T13:00:00Z", "a day or time that does not exist"),
    ("2026-11-28T24:00:00Z", "a day or time that does not exist"),
    ("2026-11-28T23:59:60Z", "a day or time that does not exist"),
    ("2026-11-28T13:00:00+24:00", "a day or time that does not exist"),
    ("2026-11-28T13:00:00+01:60", "a day or time that does not exist"),
    ("0000-11-28T13:00:00Z", "a day or time that does not exist"),
    ("0001-01-01T00:00:00+10:00", "a day or time that does not exist"),
    ("9999-12-31T23:59:59-10:00", "a day or time that does not exist"),
    ("2026-11-28T13:00:00.Z", ""),
    ("2026-11-28T13:00:00 +1", ""),
    ("2026-11-28T13Z", ""),
    ("2026-11-28  13:00:00Z", ""),
    ("2026-11-28_13:00:00Z", ""),
    ("\uff12026-11-28T13:00:00Z", ""),
    ("2026-11-28T13:00:00Z\n", ""),
    ("", ""),
    ("yesterday", ""),
]
