"""Refuse requests from other sites, and set headers that restrict the browser.

Pages of other sites can send requests to loopback through the user's browser. Therefore a request is refused
if its Host header (DNS rebinding) or its Origin header names another site.
"""

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tools.console.responses import problem

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}


def policy(tiles: str | None) -> str:
    """Return the value of the Content-Security-Policy header, which allows no host except the console's own
    and that of --tiles.
    """
    elsewhere = ""
    if tiles:
        at = urlsplit(re.sub(r"[{}]", "", tiles))
        elsewhere = f" {at.scheme}://{at.netloc}"
    return "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            f"img-src 'self' data: blob:{elsewhere}",
            "font-src 'self'",
            f"connect-src 'self'{elsewhere}",
            "worker-src 'self' blob:",
            "manifest-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )


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
        # Links from other pages are allowed, but only for whole pages.
        is_link = headers.get("sec-fetch-mode") == "navigate" and not path.startswith("/api/")
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and not is_link:
            return "The console answers only requests from its own pages."
        return None
