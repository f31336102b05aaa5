"""Decompress the body of a request, within limits that stop decompression bombs."""

import zlib

from contract.ndjson import BYTE_ORDER_MARK
from handler.http import Refused, Request, Unreadable
from handler.request_limits import FREE_INFLATED_BYTES, MAX_GZIP_MEMBERS, MAX_INFLATED_BYTES, MAX_INFLATION

_GZIP_MAGIC = b"\x1f\x8b"


def inflated(request: Request) -> bytes:
    """Return the body, inflated if it is compressed. Only zero bytes are allowed between and after gzip members.

    Raises Refused (413, too large) or Unreadable (not valid gzip).
    """
    body = request.body
    if "gzip" not in request.codings:
        return body
    if not body.startswith(_GZIP_MAGIC) and body.removeprefix(BYTE_ORDER_MARK).lstrip()[:1] in (b"{", b"["):
        return body  # the gateway has inflated it but not removed the header
    most = min(MAX_INFLATED_BYTES, MAX_INFLATION * len(body) + FREE_INFLATED_BYTES)
    text = bytearray()
    for _ in range(MAX_GZIP_MEMBERS):
        if not body:
            return bytes(text)
        stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        try:
            text += stream.decompress(body, most + 1 - len(text))
        except zlib.error as error:
            raise Unreadable("bad_gzip", f"The body is not valid gzip: {error}.") from None
        if len(text) > most:
            detail = f"The inflated body is larger than {most} bytes: split the batch."
            raise Refused(413, "inflated_body_too_large", detail, limit=most)
        if not stream.eof:
            raise Unreadable("bad_gzip", "The gzip body is truncated.")
        body = stream.unused_data.lstrip(b"\0")
    raise Unreadable("bad_gzip", f"The gzip body has {MAX_GZIP_MEMBERS} members or more.")
