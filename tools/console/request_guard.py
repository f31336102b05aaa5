"""Refuse requests from other sites, and add the security headers to each response.

Pages of other sites can send requests to loopback through the user's browser. Therefore a request is refused
if its Host header (DNS rebinding) or its Origin header names another site. It is also refused if its Sec-Fetch-Site
header says that another site's page sent it, unless the user followed a link to one of the console's pages.
"""

from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tools.console.responses import problem
from tools.console.security_headers import HEADERS, policy


class RequestGuard:
    def __init__(self, app: ASGIApp, ports: Iterable[int], tiles: str | None = None) -> None:
        self._app = app
        self._hosts = {
            f"{name}{f':{port}' if port != 80 else ''}"
            for port in ports
            for name in ("127.0.0.1", "localhost", "[::1]")
        }
        self._headers = HEADERS | {"Content-Security-Policy": policy(tiles)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers[name] = value
                if scope["path"].startswith("/api/"):
                    headers["Cache-Control"] = "no-store"
            await send(message)

        refused = self._why_not(Headers(scope=scope), scope["path"])
        if refused:
            await problem(403, refused)(scope, receive, send_guarded)
        else:
            await self._app(scope, receive, send_guarded)

    def _why_not(self, headers: Headers, path: str) -> str | None:
        if headers.get("host", "").lower() not in self._hosts:
            return "The console answers only requests to its own address."
        origin = headers.get("origin")
        if origin is not None and origin.lower().removeprefix("http://") not in self._hosts:
            return "The console answers only requests from its own pages."
        # Links from other sites are allowed, but only to pages, not to the API.
        is_link = headers.get("sec-fetch-mode") == "navigate" and not path.startswith("/api/")
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and not is_link:
            return "The console answers only requests from its own pages."
        return None
