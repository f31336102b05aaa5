"""`python -m ops.simulate`: what waits where, and for how long, when a part of AWS or Snowflake is gone for an hour."""
