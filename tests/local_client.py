"""Create boto3 clients for the local stack with LocalStack's own client library."""

from typing import Any

import pytest
from botocore.config import Config
from localstack_client.session import Session


def local_client(endpoint_url: str, service: str, region: str = "us-east-1", **options: Any) -> Any:
    """Return a boto3 client for LocalStack at `endpoint_url`; `options` are passed to botocore's Config."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("AWS_ENDPOINT_URL", raising=False)  # localstack-client prefers it to the host argument
        session = Session(region_name=region, localstack_host=endpoint_url.removeprefix("http://"))
    return session.client(service, config=Config(**options))
