"""Handle two requests in a fresh process.

Prints the status of the first request, the modules that the requests import, and the CPU times.
Run with `python -m tests.unit.handler.first_request`. A local server replaces the endpoints of container credentials,
S3 and Kinesis. test_snapshot.py runs this module with the environment variables that Lambda sets for a function.
"""

import base64
import json
import os
import sys
import time
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

CREDENTIALS = {
    "AccessKeyId": "key",
    "SecretAccessKey": "secret",
    "Token": "token",
    "Expiration": "2099-01-01T00:00:00Z",
}


class Aws(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b"{}"
        if self.path == "/credentials":
            body = json.dumps(CREDENTIALS).encode()
        elif self.headers.get("X-Amz-Target", "").endswith("PutRecords"):
            body = b'{"FailedRecordCount": 0, "Records": [{"SequenceNumber": "1", "ShardId": "0"}]}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST = answer

    def log_message(self, *_: object) -> None:
        pass


class Context:
    aws_request_id = "first"

    def get_remaining_time_in_millis(self) -> int:
        return 28_000


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Aws)
    Thread(target=server.serve_forever, daemon=True).start()
    here = f"http://127.0.0.1:{server.server_port}"
    snapshot = os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start"
    began = time.process_time()
    import handler.main

    init_ms = (time.process_time() - began) * 1000
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    known = {*sys.modules}
    os.environ["AWS_ENDPOINT_URL"] = here
    if snapshot:
        os.environ["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = f"{here}/credentials"
    event = {
        "_id": "e1",
        "type": "user.entered_geofence",
        "createdAt": now,
        "user": {"deviceId": "d1"},
        "geofence": {"tag": "store", "externalId": "1"},
    }
    request = {
        "headers": {"Content-Type": "application/json"},
        "body": base64.b64encode(json.dumps([event]).encode()).decode(),
        "isBase64Encoded": True,
        "requestContext": {"extendedRequestId": "first"},
    }
    began = time.process_time()
    answer = handler.main.ingest(request, Context())
    first_ms = (time.process_time() - began) * 1000
    began = time.process_time()
    handler.main.ingest(request, Context())
    second_ms = (time.process_time() - began) * 1000
    loaded = sorted({*sys.modules} - known)
    facts = {"status": answer["statusCode"], "loaded": loaded}
    times = {"init_ms": init_ms, "first_ms": first_ms, "second_ms": second_ms}
    sys.stderr.write(json.dumps(facts | times))


if __name__ == "__main__":
    main()
