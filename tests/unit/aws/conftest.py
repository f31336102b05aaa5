"""Check requests and responses against AWS's service models, except responses in tests marked `wrong_answer`."""

from collections.abc import Iterator

import pytest

from tests.service_models import validated


@pytest.fixture(autouse=True)
def _only_requests_valid_on_aws(request: pytest.FixtureRequest) -> Iterator[None]:
    with validated("ignore" if request.node.get_closest_marker("wrong_answer") else "raise"):
        yield
