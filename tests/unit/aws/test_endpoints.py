"""Test that the adapter uses the same endpoints as the SDK in every region of the partition `aws`."""

import botocore.session
import pytest

from aws.http import endpoint_of

SERVICES = ("dynamodb", "events", "kinesis", "s3", "sqs", "ssm")


@pytest.mark.parametrize("service", SERVICES)
def test_endpoint_matches_the_sdk_in_every_region(service):
    session = botocore.session.get_session()
    regions = session.get_available_regions(service, partition_name="aws")
    assert len(regions) > 20
    for region in regions:
        client = session.create_client(
            service, region_name=region, aws_access_key_id="x", aws_secret_access_key="x"
        )
        assert endpoint_of(service, region) == with_region(client.meta.endpoint_url, region)


def with_region(url: str, region: str) -> str:
    # For S3 in us-east-1 the SDK still uses the global name, although a regional one exists.
    return url.replace("https://s3.amazonaws.com", f"https://s3.{region}.amazonaws.com")
