"""A fake AWS service that checks signatures."""

import hashlib
import hmac
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Strict:
    """A fake service that responds to each request with the next of `answers`, or with 403 if the signature is wrong.

    If the answer is None, it closes the connection without a response. If none is left, it responds with 200 and {}.
    """

    answers: list[tuple[int, bytes] | None] = field(default_factory=list)
    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    secrets: dict[str, str] = field(default_factory=lambda: {"AKID": "secret/+"})
    closes: bool = False  # closes the connection after each answer without announcing it
    url: str = ""
    is_open: bool = False  # accepts unsigned requests

    def answer(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, bytes] | None:
        self.requests.append((method, path, headers, body))
        if not self.is_open and headers["authorization"] != self.authorization(method, path, headers, body):
            return 403, b"<Error><Code>SignatureDoesNotMatch</Code></Error>"
        return self.answers.pop(0) if self.answers else (200, b"{}")

    def authorization(self, method: str, path: str, headers: dict[str, str], body: bytes) -> str:
        """Return the `Authorization` header that the request should have.

        (AWS IAM User Guide: "Create a signed AWS API request".)
        """
        given = dict(part.split("=", 1) for part in headers["authorization"].split(" ", 1)[1].split(", "))
        access_key, day, region, service, _ = given["Credential"].split("/")
        names = given["SignedHeaders"].split(";")
        assert {"host", "x-amz-date", "x-amz-security-token"} <= {*names}
        assert day == headers["x-amz-date"][:8]
        digest = hashlib.sha256(body).hexdigest()
        assert headers.get("x-amz-content-sha256", digest) == digest
        lines = "".join(f"{name}:{' '.join(headers[name].split())}\n" for name in names)
        canonical = f"{method}\n{path}\n\n{lines}\n{';'.join(names)}\n{digest}"
        scope = f"{day}/{region}/{service}/aws4_request"
        hashed = hashlib.sha256(canonical.encode()).hexdigest()
        key = b"AWS4" + self.secrets[access_key].encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        text = f"AWS4-HMAC-SHA256\n{headers['x-amz-date']}\n{scope}\n{hashed}"
        signature = hmac.new(key, text.encode(), "sha256").hexdigest()
        return (
            f"AWS4-HMAC-SHA256 Credential={access_key}/{scope}, "
            f"SignedHeaders={given['SignedHeaders']}, Signature={signature}"
        )


@contextmanager
def strict_service(certificate: ssl.SSLContext | None = None) -> Iterator[Strict]:
    """Run a fake service on 127.0.0.1, with TLS if a certificate is given, and yield the service."""
    service = Strict()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # headers and body in one packet; otherwise, the client delays its ACK by 40 ms

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = service.answer(self.command, self.path, headers, body)
            if answer is None:
                self.close_connection = True
                return
            self.send_response(answer[0])
            self.send_header("Content-Length", str(len(answer[1])))
            self.end_headers()
            self.wfile.write(answer[1])
            self.close_connection = service.closes

        do_POST = do_GET = do_PUT

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    scheme = "http"
    if certificate:
        server.socket = certificate.wrap_socket(server.socket, server_side=True)
        scheme = "https"
    service.url = f"{scheme}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
