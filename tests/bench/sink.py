"""A fake S3 and Kinesis that accepts everything immediately: `python -m tests.bench.sink` prints its port.

It is a separate process, so that its CPU time does not count as the handler's. A GET returns and resets the
counts of calls and bytes, and the last body of each method.
"""

import asyncio
import base64
import json
from collections import Counter

ANSWERS = {
    "PUT": b'HTTP/1.1 200 OK\r\nETag: "0"\r\nContent-Length: 0\r\n\r\n',
    "POST": b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.1\r\nContent-Length: 36\r\n\r\n"
    b'{"FailedRecordCount":0,"Records":[]}',
}
calls: Counter[str] = Counter()
last: dict[str, str] = {}


def counts_response() -> bytes:
    body = json.dumps({"calls": calls, "last": last}).encode()
    calls.clear()
    last.clear()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def content(head: bytes, body: bytes) -> bytes:
    """Return the body. If botocore sent it as aws-chunked, remove the line with a chunk's length before each chunk."""
    if b"aws-chunked" not in head.lower():
        return body
    plain = b""
    while (size := int(body.partition(b"\r\n")[0].split(b";")[0], 16)) > 0:
        start = body.index(b"\r\n") + 2
        plain, body = plain + body[start : start + size], body[start + size + 2 :]
    return plain


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            method = head.partition(b" ")[0].decode()
            if method == "GET":
                writer.write(counts_response())
                continue
            length = next(
                int(line.split(b":")[1])
                for line in head.lower().split(b"\r\n")
                if line[:15] == b"content-length:"
            )
            if b"100-continue" in head:
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = await reader.readexactly(length)
            calls[method] += 1
            calls[f"{method} bytes"] += length
            last[method] = base64.b64encode(content(head, body)).decode()
            writer.write(ANSWERS[method])
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=2**20)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
