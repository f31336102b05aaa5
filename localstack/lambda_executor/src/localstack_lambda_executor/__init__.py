"""A LocalStack plugin that runs Lambda functions as processes, for machines without Docker.

`execution_environment` runs one Lambda execution environment as an operating-system process and does not depend
on LocalStack. `plugins` and `executor` replace LocalStack's containers with such processes, `dynamodb` replaces
DynamoDB Local with moto, `storage` keeps S3 objects in LocalStack's own folder, and `gateway` passes gzip bodies on
unchanged, as Amazon API Gateway does for binary media types, and listens only on 127.0.0.1. `topic_policy` lets
CloudFormation update the policy of an SNS topic, and `kinesis_mock_parent` makes the Kinesis mock exit with LocalStack.
"""
