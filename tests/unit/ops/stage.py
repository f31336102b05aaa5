"""A stage on moto and a local Snowflake with pipes, for tests of commands that need all stores."""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from io import BytesIO
from operator import le
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
from pyarrow import parquet

from aws.table import Item, Table, loaded
from consumer.store import Store
from consumer.visits import Rule, Visit, pair_of
from contract.archive_object import Prefix, lines_object, lines_of
from contract.event_rules import geofence_event
from glue.archive import Bucket
from local_snowflake.testing import Aws, LocalProcess, Warehouse, eventually
from ops.stage_outputs import Outputs
from ops.visits_items import visits_in
from snowpipe import sqlite as sqlite_export
from snowpipe.settings import Connection
from snowpipe.warehouse import Row
from tests.unit.consumer.fakes import FakeBus, Inline

HOUR = datetime(2026, 11, 16, 8, tzinfo=UTC)


class Stage:
    def __init__(self, aws: Aws, local: LocalProcess) -> None:
        self.raw = Warehouse(local, aws).with_pipe()
        self.raw.table("REJECTED")
        self.raw.stage("REJECTED_STAGE", "rejected/")
        self.raw.pipe("REJECTED_PIPE", stage="REJECTED_STAGE", table="REJECTED")
        self.raw.run("CREATE WAREHOUSE IF NOT EXISTS OPERATORS")
        name = uuid4().hex[:12]
        snowflake = Connection.model_validate(
            {
                "account": "fakesnow",
                "user": "milkrun",
                "password": "milkrun",
                "host": "127.0.0.1",
                "port": local.port,
                "protocol": "http",
                "database": self.raw.database,
                "role": "ACCOUNTADMIN",
                "warehouse": "OPERATORS",
            }
        )
        values = {
            "endpoint": aws.endpoint,
            "api_key": "key",
            "region": "us-east-1",
            "bucket": self.raw.bucket,
            "stream": name,
            "visits_table": name,
            "aws_endpoint_url": aws.endpoint,
            "snowflake": snowflake,
        }
        queues = {
            f"{kind}_queue_url": aws.sqs.create_queue(QueueName=f"{name}-{kind}")["QueueUrl"]
            for kind in ("redrive", "dead_letter")
        }
        self.outputs = Outputs.model_validate(values | queues)
        self.bucket = Bucket(self.outputs.bucket, aws.s3)
        self.s3, self.sqs = aws.s3, aws.sqs
        self.dynamodb = self.outputs.aws("dynamodb")
        self.s3.put_bucket_versioning(Bucket=self.bucket.name, VersioningConfiguration={"Status": "Enabled"})
        self.outputs.aws("kinesis").create_stream(StreamName=name, ShardCount=1)
        self.dynamodb.create_table(
            TableName=name,
            KeySchema=[{"AttributeName": n, "KeyType": k} for n, k in (("pk", "HASH"), ("sk", "RANGE"))],
            AttributeDefinitions=[{"AttributeName": n, "AttributeType": "S"} for n in ("pk", "sk")],
            BillingMode="PAY_PER_REQUEST",
        )

    def put(self, *lines: bytes, prefix: Prefix = "events") -> str:
        made = lines_object(prefix, lines, HOUR)
        self.s3.put_object(Bucket=self.bucket.name, Key=made.key, Body=made.body)
        return made.key

    def keys(self, prefix: str = "") -> list[str]:
        return [each.key for each in self.bucket.list(prefix)]

    def lines(self, prefix: str) -> list[bytes]:
        return [line for key in self.keys(prefix) for line in lines_of(self.bucket.read(key))]

    def loaded(self) -> None:
        """Wait until the pipes have loaded all lines."""
        for prefix, table in (("events/", "EVENTS"), ("rejected/", "REJECTED")):
            wanted = len(self.lines(prefix))
            assert eventually(partial(self.raw.count, table), partial(le, wanted)) >= wanted

    def consume(self, *lines: bytes, at_once: int = 100) -> None:
        table = Table(self.outputs.access().client("dynamodb"), self.outputs.visits_table, Inline())
        store = Store(table, FakeBus(), Rule(), Inline())
        for start in range(0, len(lines), at_once):
            for event in map(geofence_event, lines[start : start + at_once]):
                [result] = store.add({pair_of(event): [event]}).values()
                assert not isinstance(result, Exception), result

    def items(self) -> list[Item]:
        pages = self.dynamodb.get_paginator("scan").paginate(TableName=self.outputs.visits_table)
        return [loaded(item) for page in pages for item in page["Items"]]

    def visits(self, device: str) -> list[Visit]:
        return [visit for pair, visit in visits_in(self.items()) if pair.device_id == device]

    def put_items(self, items: Iterable[Mapping[str, object]]) -> None:
        for item in items:
            self.dynamodb.put_item(TableName=self.outputs.visits_table, Item=item)

    def put_parquet(self, key: str, rows: list[Row]) -> None:
        made = BytesIO()
        parquet.write_table(pa.Table.from_pylist(rows), made)
        self.s3.put_object(Bucket=self.bucket.name, Key=key, Body=made.getvalue())

    def parquet_rows(self, key: str) -> list[Row]:
        rows: list[Row] = parquet.read_table(BytesIO(self.bucket.read(key))).to_pylist()
        return rows

    def claim(self, queue_url: str, key: str, lines: list[int]) -> None:
        body = json.dumps({"bucket": self.bucket.name, "key": key, "lines": lines})
        self.sqs.send_message(QueueUrl=queue_url, MessageBody=body)

    def claims(self, queue_url: str) -> list[Row]:
        found = self.sqs.receive_message(QueueUrl=queue_url, MaxNumberOfMessages=10, VisibilityTimeout=0)
        return [json.loads(each["Body"]) for each in found.get("Messages", ())]

    def export_to(self, path: Path) -> None:
        bucket = self.bucket

        class Source:
            def objects(self) -> Iterator[Any]:
                return bucket.list("events/")

            def body(self, key: str) -> bytes:
                return bucket.read(key)

        list(sqlite_export.load(path, Source()))

    @staticmethod
    def exported(path: Path) -> list[str]:
        with closing(sqlite3.connect(path)) as database:
            return [payload for (payload,) in database.execute("SELECT payload FROM events")]

    def raw_lines(self, table: str) -> list[str]:
        return [row["LINE"] for row in self.raw.run(f"SELECT TO_JSON(payload) AS line FROM RAW.{table}")]

    def everything(self) -> Iterator[tuple[str, bytes]]:
        """Yield (location, text) for every text in the archive, the visits table, RAW and the queues. The archive's
        texts are the key, metadata and body of each version of each object.

        Compressed texts, and texts in base64, are decoded.
        """
        for entry in self.bucket.versions(""):
            yield entry["Key"], entry["Key"].encode()
            if "Size" in entry:
                found = self.s3.get_object(
                    Bucket=self.bucket.name, Key=entry["Key"], VersionId=entry["VersionId"]
                )
                yield entry["Key"], json.dumps(found["Metadata"]).encode()
                yield from ((entry["Key"], text) for text in _texts(entry["Key"], found["Body"].read()))
        yield from (("visits table", json.dumps(item, ensure_ascii=False).encode()) for item in self.items())
        for table in ("EVENTS", "REJECTED"):
            yield from ((table, text) for line in self.raw_lines(table) for text in _texts("", line.encode()))
        for url in (self.outputs.redrive_queue_url, self.outputs.dead_letter_queue_url):
            yield from (("queue", json.dumps(claim).encode()) for claim in self.claims(url))


def _texts(key: str, body: bytes) -> Iterator[bytes]:
    from glue.person import texts_of

    if key.endswith(".parquet"):
        yield repr(parquet.read_table(BytesIO(body)).to_pylist()).encode()
        return
    for text in texts_of(body):
        yield text.encode(errors="replace")
        for line in text.splitlines():
            try:
                value = json.loads(line)
            except ValueError:
                continue
            yield json.dumps(value, ensure_ascii=False).encode(errors="replace")
            for hidden in _hidden(value):
                yield from (each.encode(errors="replace") for each in texts_of(hidden))


def _hidden(value: object) -> Iterator[bytes]:
    """Yield the decoded bytes of a line's base64 fields, including those in the JSON text of an invocation record."""
    import base64

    if isinstance(value, dict):
        for name, inner in value.items():
            if name in ("body_base64", "record_base64", "data") and isinstance(inner, str):
                yield base64.b64decode(inner)
            elif name == "payload" and isinstance(inner, str):
                yield from _hidden(json.loads(inner))
            else:
                yield from _hidden(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _hidden(inner)
