"""A Snowflake with Snowpipe for a laptop: fakesnow's server with durable databases and pipes that load files.
`python -m local_snowflake --port P --dir D` starts it; `compatibility.md` lists what behaves as Snowflake
does.
"""
