"""A fast fake of S3 and SQS, with generated objects and messages in memory.

LocalStack serves only about 100 objects per second, so it would limit the measured speed of the local Snowflake's
loader. `python -m tests.bench.generated_objects OBJECTS ROWS_PER_OBJECT` runs this fake as a process and prints
its port.
"""

import asyncio
import gzip
import json
import sys
import uuid
from email.utils import formatdate
from urllib.parse import unquote

BUCKET = "bench"
QUEUE = "/000000000000/queue"
VISIBILITY_SECONDS = 60


def event(number: int) -> bytes:
    """Return a geofence event of about 400 bytes."""
    return json.dumps(
        {
            "_id": f"{number:032x}",
            "type": "user.entered_geofence",
            "createdAt": "2026-11-22T08:00:00.000Z",
            "actualCreatedAt": "2026-11-22T08:00:01.000Z",
            "live": True,
            "confidence": 3,
            "user": {"_id": f"{number % 500:024x}", "deviceId": f"truck-{number % 500}", "userId": "driver"},
            "geofence": {"tag": "farm", "externalId": f"farm-{number % 40}", "description": "A farm"},
            "location": {"type": "Point", "coordinates": [8.5 + number % 97 / 1000, 47.4]},
            "locationAccuracy": 5,
        },
        separators=(",", ":"),
    ).encode()


def key_of(number: int, rows: int) -> str:
    return f"events/dt=2026-11-22/hh=08/{number:064x}.{rows}.ndjson.gz"


def body_of(number: int, rows: int) -> bytes:
    return gzip.compress(b"\n".join(event(number * rows + row) for row in range(rows)), 1)


class StandIn:
    def __init__(self, objects: int, rows: int) -> None:
        self.objects = {key_of(n, rows): body_of(n, rows) for n in range(objects)}
        self.waiting = [self.message(key, len(body)) for key, body in self.objects.items()]
        self.taken: dict[str, tuple[float, str]] = {}
        self.modified = formatdate(usegmt=True)

    @staticmethod
    def message(key: str, size: int) -> str:
        record = {
            "eventName": "ObjectCreated:Put",
            "eventTime": "2026-11-22T08:00:00.000Z",
            "s3": {"bucket": {"name": BUCKET}, "object": {"key": key, "size": size}},
        }
        return json.dumps({"Records": [record]})

    def answer(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[dict[str, str], bytes]:
        target = headers.get("x-amz-target", "").rpartition(".")[2]
        if target:
            kind = {"content-type": "application/x-amz-json-1.0"}
            return kind, json.dumps(self.sqs(target, json.loads(body))).encode()
        found = self.objects[unquote(path).removeprefix(f"/{BUCKET}/")]
        return {"etag": '"0"', "last-modified": self.modified}, found

    def sqs(self, target: str, request: dict[str, object]) -> dict[str, object]:
        if target == "ReceiveMessage":
            messages: list[dict[str, str]] = []
            while self.waiting and len(messages) < 10:
                receipt, text = uuid.uuid4().hex, self.waiting.pop(0)
                self.taken[receipt] = (0, text)
                messages.append({"MessageId": receipt, "ReceiptHandle": receipt, "Body": text})
            return {"Messages": messages} if messages else {}
        if target == "DeleteMessageBatch":
            entries = request["Entries"]
            assert isinstance(entries, list)
            for entry in entries:
                self.taken.pop(entry["ReceiptHandle"], None)
            return {"Successful": [{"Id": entry["Id"]} for entry in entries], "Failed": []}
        if target == "CreateQueue":
            return {"QueueUrl": f"http://127.0.0.1:{self.port}{QUEUE}"}
        if target == "GetQueueAttributes":
            count = str(len(self.waiting))
            arn = "arn:aws:sqs:us-east-1:000000000000:queue"
            return {"Attributes": {"QueueArn": arn, "ApproximateNumberOfMessages": count}}
        return {}

    port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                method, path, _ = line.decode().split(" ")
                headers = {}
                while (header := await reader.readline()) not in (b"\r\n", b""):
                    name, _, value = header.decode().partition(":")
                    headers[name.lower()] = value.strip()
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                if "x-amz-target" in headers and headers["x-amz-target"].endswith("ReceiveMessage"):
                    await asyncio.sleep(0 if self.waiting else 0.05)
                extra, answer = self.answer(method, path.partition("?")[0], headers, body)
                lines = [f"{name}: {value}" for name, value in extra.items()]
                head = "\r\n".join(["HTTP/1.1 200 OK", f"content-length: {len(answer)}", *lines])
                writer.write(head.encode() + b"\r\n\r\n" + answer)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def run(self) -> None:
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0, limit=2**20)
        self.port = server.sockets[0].getsockname()[1]
        print(self.port, flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(StandIn(int(sys.argv[1]), int(sys.argv[2])).run())
