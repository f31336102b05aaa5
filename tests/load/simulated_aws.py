"""Simulate the AWS services that our functions call, with typical latencies within an AWS region.

`python -m tests.load.simulated_aws` runs the simulation, and prints the port on which it listens on loopback.

It simulates the calls of S3, Kinesis, SQS, DynamoDB and EventBridge that our functions use. It is a separate
process, so that its CPU time does not count as the functions'. `--scale 0` responds immediately. `--throttle` makes
every PutRecords call fail with InternalFailure, which the ingest function handles like throttling.
"""

import argparse
import asyncio
import json
import random
from collections import OrderedDict

from botocore.exceptions import ClientError

from tests.bench.fake_aws import Aws

# Median seconds; the latency of each call has a log-normal distribution.
LATENCY = {"s3": 0.025, "kinesis": 0.010, "sqs": 0.010, "dynamodb": 0.005, "events": 0.010}
SPREAD = 0.25
OBJECTS_KEPT = 2000

SERVICES = {
    "Kinesis_20131202": "kinesis",
    "AmazonSQS": "sqs",
    "DynamoDB_20120810": "dynamodb",
    "AWSEvents": "events",
}
OPERATIONS = {
    "PutItem": "put_item",
    "UpdateItem": "update_item",
    "Query": "query",
    "BatchGetItem": "batch_get_item",
    "BatchWriteItem": "batch_write_item",
    "PutEvents": "put_events",
}

type Answer = tuple[int, bytes]


class Simulated:
    def __init__(self, scale: float, throttles: bool) -> None:
        self._scale, self._throttles = scale, throttles
        self._objects: OrderedDict[str, bytes] = OrderedDict()
        self._tables = Aws(0)
        self._random = random.Random(1)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                first, *lines = head.splitlines()
                method, path, _ = first.split(" ")
                headers = {
                    name.lower(): value.strip() for name, _, value in (ln.partition(":") for ln in lines)
                }
                if "expect" in headers:
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                body = await reader.readexactly(int(headers.get("content-length") or 0))
                prefix, _, operation = headers.get("x-amz-target", "").partition(".")
                service = SERVICES.get(prefix, "s3")
                await asyncio.sleep(self._latency(service))
                if service == "s3":
                    status, answer = self._s3(method, path.partition("?")[0], body)
                else:
                    status, answer = self._call(operation, json.loads(body))
                writer.write(
                    f'HTTP/1.1 {status} -\r\nx-amz-request-id: 1\r\nEtag: "0"\r\n'
                    f"Content-Length: {len(answer)}\r\n\r\n".encode()
                    + answer
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def _latency(self, service: str) -> float:
        return self._scale * LATENCY[service] * self._random.lognormvariate(0, SPREAD)

    def _s3(self, method: str, path: str, body: bytes) -> Answer:
        if method == "PUT":
            self._objects[path] = body
            if len(self._objects) > OBJECTS_KEPT:
                self._objects.popitem(last=False)
            return 200, b""
        return 200, self._objects[path]

    def _call(self, operation: str, request: dict[str, object]) -> Answer:
        if operation == "PutRecords" and self._throttles:
            return 500, b'{"__type":"InternalFailure"}'
        if operation in OPERATIONS:
            try:
                answer = getattr(self._tables, f"_do_{OPERATIONS[operation]}")(**request)
            except ClientError as error:
                code = error.response["Error"]["Code"]
                body: dict[str, object] = {
                    "__type": f"com.amazonaws.dynamodb.v20120810#{code}",
                    "message": "",
                }
                old = error.response.get("Item")
                return 400, json.dumps(body | ({"Item": old} if old else {})).encode()
            return 200, json.dumps(answer).encode()
        if operation == "PutRecords":
            return 200, b'{"FailedRecordCount":0,"Records":[]}'
        return 200, b'{"MessageId":"1"}'  # SQS: messages are accepted and discarded


async def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.load.simulated_aws", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--throttle", action="store_true")
    given = parser.parse_args()
    simulated = Simulated(given.scale, given.throttle)
    server = await asyncio.start_server(simulated.serve, "127.0.0.1", 0, limit=2**22)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
