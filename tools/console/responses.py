"""The console's HTTP responses: JSON, files and errors."""

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tools.console.page_updates import encode

__all__ = ["ON_ERRORS", "Problem", "Raw", "as_file", "download", "encode", "json", "problem"]
Raw = msgspec.Raw


class Problem(Exception):
    """An error that becomes a problem+json response (RFC 9457). `source` names the source that is
    unavailable, if any.
    """

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


def download(text: str, name: str, media_type: str) -> Response:
    return Response(text, media_type=media_type, headers=as_file(name))


def as_file(name: str) -> dict[str, str]:
    """Return the Content-Disposition header that makes a browser save the response as a file with this name."""
    return {"Content-Disposition": f'attachment; filename="{name}"'}


async def _refused(_: Request, fault: Exception) -> Response:
    assert isinstance(fault, Problem)
    return problem(fault.status, fault.detail, fault.source)


async def _not_allowed(_: Request, __: Exception) -> Response:
    return problem(405, "This method is not allowed.")


async def _failed(_: Request, fault: Exception) -> Response:
    return problem(500, f"Internal error of the console: {type(fault).__name__}.")


ON_ERRORS: Mapping[type[Exception] | int, Callable[[Request, Exception], Awaitable[Response]]] = {
    Problem: _refused,
    405: _not_allowed,
    500: _failed,
}
