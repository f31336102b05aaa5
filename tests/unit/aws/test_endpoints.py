"""The endpoints that the adapter puts together are those of the SDK, in every region of the supported partition."""

import botocore.session
import pytest

from aws.http import endpoint_of

SERVICES = ("dynamodb", "events", "kinesis", "s3", "secretsmanager", "sqs", "ssm")


@pytest.mark.parametrize("service", SERVICES)
def test_an_endpoint_is_the_one_that_the_sdk_uses_in_every_region_of_partition_aws(service):
    session = botocore.session.get_session()
    regions = session.get_available_regions(service, partition_name="aws")
    assert len(regions) > 20
    for region in regions:
        client = session.create_client(
            service, region_name=region, aws_access_key_id="x", aws_secret_access_key="x"
        )
        assert endpoint_of(service, region) == sdks(client.meta.endpoint_url, region)


def sdks(url: str, region: str) -> str:
    # For S3 in us-east-1 the SDK still takes the global name; the regional one exists too.
    return url.replace("https://s3.amazonaws.com", f"https://s3.{region}.amazonaws.com")
