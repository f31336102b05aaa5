"""What LocalStack lacks on a machine without Docker.

`sandbox` runs one Lambda execution environment as an operating-system process; it knows nothing of
LocalStack. `plugins` and `executor` put it in the place of LocalStack's containers, `dynamodb` puts moto in
the place of a download, `storage` keeps S3's objects in LocalStack's own folder, and `gateway` lets gzip bodies
through as Amazon API Gateway does for binary media types.
"""
