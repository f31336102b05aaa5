"""A Snowflake with Snowpipe for a laptop: fakesnow's server made durable, with pipes that load by themselves.

`python -m local_snowflake --port P --dir D` starts it; `compatibility.md` says what it does like the
real one and what it does not.
"""
