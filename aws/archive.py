"""The archive bucket. Keys contain a hash of the content, and puts are conditional, so no object is overwritten."""

import re
from collections.abc import Mapping
from urllib.parse import quote

from aws.credentials import Credentials
from aws.errors import MissingObjectError, ServiceError
from aws.http import Endpoint, Response, Signer, endpoint_of
from aws.retry import S3_BASE_SECONDS, TRIES, retrying
from contract.archive_object import LinesObject

_XML_CODE = re.compile(rb"<Code>([^<]{1,128})</Code>")
# S3 returns AccessDenied for a missing key if the role may not list the bucket.
# (Amazon S3 API Reference: "GetObject", Permissions.)
_MISSING = frozenset({"NoSuchKey", "NoSuchBucket", "AccessDenied"})


class Archive:
    """The archive bucket on S3. Thread-safe."""

    def __init__(self, bucket: str, region: str, credentials: Credentials, url: str = "") -> None:
        self.bucket = bucket
        # On AWS, use the bucket's own host name, unless a dot in the bucket's name would break TLS.
        # (Amazon S3 User Guide: "Virtual hosting of general purpose buckets".)
        if url or "." in bucket:
            self.url, self.path = url or endpoint_of("s3", region), f"/{bucket}"
        else:
            self.url, self.path = endpoint_of(f"{bucket}.s3", region), ""
        self._endpoint = Endpoint("S3", self.url, Signer(credentials, region, "s3"))

    def store(self, lines: LinesObject, facts: Mapping[str, str]) -> bool:
        """Put an object with `facts` as its metadata; return False if it already exists. Raises RetryableError."""
        headers = {"content-type": "application/gzip", "if-none-match": "*"}
        headers |= {f"x-amz-meta-{name}": value for name, value in facts.items()}
        response = self._send("PUT", lines.key, headers, lines.body)
        return response.status == 200  # 412: it exists, perhaps from an earlier attempt that timed out

    def read(self, key: str) -> bytes:
        """Return the bytes of an object. Raises MissingObjectError or RetryableError."""
        try:
            return self._send("GET", key, {}, b"").body
        except ServiceError as error:
            if error.code in _MISSING:
                raise MissingObjectError(f"S3: {error.code}") from error
            raise

    def _send(self, method: str, key: str, headers: Mapping[str, str], body: bytes) -> Response:
        path = f"{self.path}/{quote(key)}"

        def once() -> Response:
            response = self._endpoint.send(method, path, headers, body)
            if response.status in (200, 412):
                return response
            code = _XML_CODE.search(response.body)
            raise ServiceError("S3", code[1].decode() if code else str(response.status), response.status)

        return retrying(once, TRIES, S3_BASE_SECONDS)
