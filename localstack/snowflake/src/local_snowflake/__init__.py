"""A local Snowflake with Snowpipe: fakesnow's server, with durable databases and with pipes that load files.
Start it with `python -m local_snowflake --port PORT --dir FOLDER`. `compatibility.md` lists where its
behaviour matches Snowflake's and where it differs.
"""
