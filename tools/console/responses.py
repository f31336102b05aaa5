"""JSON responses and errors."""

from http import HTTPStatus

import msgspec
from starlette.responses import Response

from tools.console.stream import encode

__all__ = ["Problem", "Raw", "encode", "json", "problem"]
Raw = msgspec.Raw


class Problem(Exception):
    """An error, answered as problem+json (RFC 9457). `source` names the unavailable source."""

    def __init__(self, status: int, detail: str, source: str | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.source = source


def json(value: object, status: int = 200) -> Response:
    return Response(encode(value), status, media_type="application/json")


def problem(status: int, detail: str, source: str | None = None) -> Response:
    said = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    } | ({"source": source} if source else {})
    return Response(encode(said), status, media_type="application/problem+json")
