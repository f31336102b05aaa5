"""What lies in the stores need not be ours."""

import json
from datetime import UTC, datetime

import pytest

from ops.stores import StreamRecord, event_ids_among


@pytest.mark.parametrize("poison", [b"\xff\xfe", b"not json", b"[]", b"7", b"null", b"{}", b""])
def test_what_is_no_event_on_the_stream_hides_none_that_is(poison: bytes) -> None:
    ours = [json.dumps({"_id": name}).encode() for name in ("a", "b")]
    at = datetime.now(UTC)
    records = [StreamRecord("shard", str(n), at, data) for n, data in enumerate([ours[0], poison, ours[1]])]
    assert list(event_ids_among(records)) == ["a", "b"]
