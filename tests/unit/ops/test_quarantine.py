"""Test that quarantined records of any content can be exported for repair, and that large ones can be sent again."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from ops.quarantine import Aside, put_back, write

BAD_UTF8 = b'{"_id":"a","note":"\xff"}'


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"_id": "a"}', {"_id": "a"}),
        (BAD_UTF8, BAD_UTF8.decode(errors="replace")),
        (b"not json", "not json"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"[" * 5_000, "[" * 5_000),
    ],
    ids=["event", "bad-utf8-in-json", "text", "bytes", "deep"],
)
def test_each_exported_record_is_a_json_line_in_utf8(tmp_path: Path, data: bytes, expected: object) -> None:
    """`milkrun quarantine show` converts records in the same way. An earlier version of it failed for all records if
    one of them was not valid UTF-8.
    """
    file = tmp_path / "aside.ndjson"
    assert write(file, [Aside("set-aside/x", 1, 1, ("invalid_json_value",), data, "van")]) == 1
    [line] = file.read_text(encoding="utf-8").splitlines()
    assert json.loads(line) == expected


def test_quarantined_records_of_a_mebibyte_are_sent_in_requests_that_kinesis_accepts() -> None:
    sizes = []

    class Kinesis:
        def put_records(self, *, StreamName: str, Records: Sequence[dict[str, bytes]]) -> dict[str, object]:
            sizes.append(sum(len(record["Data"]) + len(record["PartitionKey"]) for record in Records))
            return {"Records": [{"SequenceNumber": "1"} for _ in Records]}

    large = Aside("set-aside/x", 1, 1, ("not_an_object",), b"x" * 2**20, "van")
    assert put_back(Kinesis(), "stream", [large] * 11) == 11
    assert max(sizes) <= 10 * 2**20, "a request exceeds the maximum size of PutRecords"
