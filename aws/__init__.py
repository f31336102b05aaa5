"""The AWS adapter used by `handler`, `consumer` and `kcl`, and by tools where speed matters.

A call through botocore takes ten times the CPU (docs/adr/0084-one-aws-adapter.md).
"""
