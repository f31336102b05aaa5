"""A Snowflake with Snowpipe for a laptop: fakesnow's server made durable, with pipes that load by themselves.

`python -m snowpipe.local --port P --dir D` starts it; `docs/local-vs-snowflake.md` says what it does like the
real one and what it does not.
"""
