"""Check every request of these tests against AWS's service models, except in tests of invalid requests."""

from collections.abc import Iterator

import pytest

from tests.service_models import validated


@pytest.fixture(autouse=True)
def _only_requests_valid_on_aws(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.node.get_closest_marker("wrong_request"):
        yield
        return
    with validated():
        yield
