"""A typical consumer that handles one record at a time: Powertools' BatchProcessor with DynamoDB idempotency.

It applies the same visit rule to the same stream as our consumer, and publishes a notification per changed visit.
Its table of visits contains one item per event and one item per visit, but no log of changes.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.kinesis_stream_event import KinesisStreamRecord
from aws_lambda_powertools.utilities.idempotency import (
    DynamoDBPersistenceLayer,
    IdempotencyConfig,
    idempotent_function,
)

from aws.table import Item, dumped
from consumer import keys, notifications
from consumer.visits import Visit, pair_of, visits_of
from contract.event_rules import geofence_event


class Consumer:
    def __init__(self, dynamodb: Any, events: Any) -> None:
        self._dynamodb = dynamodb
        self._events = events
        self._processor = BatchProcessor(event_type=EventType.KinesisDataStreams)
        store = DynamoDBPersistenceLayer(table_name="idempotency", boto3_client=dynamodb)
        config = IdempotencyConfig(event_key_jmespath="_id")

        @idempotent_function(data_keyword_argument="event", persistence_store=store, config=config)
        def once(event: Mapping[str, object], raw: bytes) -> str:
            self._consume(raw)
            return "done"

        self._once = once
        self._config = config

    def __call__(self, batch: Mapping[str, Any], context: Any) -> Any:
        self._config.register_lambda_context(context)
        return process_partial_response(dict(batch), self._record, self._processor, context)

    def _record(self, record: KinesisStreamRecord) -> None:
        raw = record.kinesis.data_as_bytes()
        self._once(event=json.loads(raw), raw=raw)

    def _consume(self, raw: bytes) -> None:
        event = geofence_event(raw)
        pair = pair_of(event)
        pk = keys.pair_key(pair)
        found = self._dynamodb.query(
            TableName="visits",
            KeyConditionExpression="pk = :pk AND sk BETWEEN :first AND :last",
            ExpressionAttributeValues={
                ":pk": {"S": pk},
                ":first": {"S": "e#"},
                ":last": {"S": "e$"},
            },
            ConsistentRead=True,
        )
        known = [geofence_event(item["event"]["S"].encode()) for item in found["Items"]]
        item: Item = {"pk": pk, "sk": f"e#{keys.timestamp(event.occurred_at)}#{event.event_id}"}
        item |= {"event": raw.decode(), "expires_at": 1}
        self._dynamodb.put_item(TableName="visits", Item=dumped(item))
        before, after = _visits(known), _visits([*known, event])
        for start, visit in after.items():
            if before.get(start) != visit:
                row = notifications.fields_of(pair, visit)
                item = {name: str(value) for name, value in row.items() if value is not None}
                item |= {"pk": pk, "sk": f"v#{row['entered_at']}#{visit.entered_event_id}"}
                self._dynamodb.put_item(TableName="visits", Item=dumped(item))
                detail = json.dumps(row)
                kind = "departed" if visit.exited_at else "arrived"
                entry = {"EventBusName": "bus", "Source": "peer", "DetailType": kind, "Detail": detail}
                self._events.put_events(Entries=[entry])


def _visits(events: Any) -> dict[datetime, Visit]:
    return {v.entered_at: v for history in visits_of(events).values() for v in history.visits}
