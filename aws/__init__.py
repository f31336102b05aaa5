"""The AWS adapter. A call through botocore takes ten times the CPU (docs/adr/0084-one-aws-adapter.md)."""
