"""`milkrun replay --on-failure`: send again the batches that the consumer's event source mapping discarded."""

import base64
import json
from collections.abc import Iterator

from aws.stream import KinesisStream
from contract.archive_object import is_content
from contract.events import InvalidEvent
from contract.stream_record import StreamRecord
from contract.strict_json import parse_json
from ops import terminal
from ops.send_to_stream import Pace, labelled, put_all
from snowpipe.archive import Archive

ON_FAILURE = "aws/lambda/"


def given_up(archive: Archive, prefix: str = ON_FAILURE) -> Iterator[tuple[str, list[StreamRecord] | None]]:
    """Yield each batch that the event source mapping discarded and stored in S3, with the key of its object.

    The batch is None if the object is not an invocation record.
    """
    for found in archive.objects(prefix):
        body = archive.body(found.key) if is_content(found.key, found.size) else None
        if body is None:  # a folder marker or an empty object, or it was deleted after the listing
            continue
        try:
            yield found.key, _records(body)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            yield found.key, None


def _records(body: bytes) -> list[StreamRecord]:
    """Return the records in Lambda's invocation record, which contains the request to the function as text under
    `payload` (AWS Lambda Developer Guide: "Retain records of asynchronous invocations", "Capturing discarded batches").
    """
    kept = json.loads(body)
    request = kept.get("payload", kept)
    request = json.loads(request) if isinstance(request, str) else request
    return [
        StreamRecord(record["kinesis"]["partitionKey"], base64.b64decode(record["kinesis"]["data"]), number)
        for number, record in enumerate(request.get("Records", []), 1)
    ]


def replay_given_up(
    archive: Archive, stream: KinesisStream | None, label: str, pace: Pace
) -> dict[str, object]:
    """Send the records of every discarded batch again, or only count them if `stream` is None.

    Returns the label, the object keys of the batches, the number of records that were sent or would be sent, and the
    keys of the objects that could not be read, if any. The objects are not deleted, so the call can be repeated.
    """
    batches, unreadable, found, sent = [], [], 0, 0
    for key, records in terminal.counted(given_up(archive), "batches"):
        if records is None:
            unreadable.append(key)
            continue
        batches.append(key)
        found += len(records)
        if stream is not None:
            sent += put_all((_labelled_if_event(record, label) for record in records), stream, pace)
    facts: dict[str, object] = {
        "label": label if stream else None,
        "batches": batches,
        "sent": sent,
        "would_send": found - sent,
    }
    return facts | ({"unreadable": unreadable} if unreadable else {})


def _labelled_if_event(record: StreamRecord, label: str) -> StreamRecord:
    """Add the name of the replay to a record that is an event; return records of other producers unchanged."""
    try:
        event = parse_json(record.data)
    except InvalidEvent:
        return record
    if not isinstance(event, dict) or not record.data.endswith(b"}"):
        return record
    return StreamRecord(record.partition_key, labelled(record.data, event, label), record.line)
