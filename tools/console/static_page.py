"""Serve the built page and the files that it loads."""

from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response

from tools.console.responses import Problem

STATIC = Path(__file__).parent / "static"
NO_PAGES = (
    "<!doctype html><title>Milkrun</title><p>The console's pages are not built: run <code>make "
    "console-web</code>. The API works: <a href='/api/pipeline'>/api/pipeline</a>."
)


async def page(request: Request) -> Response:
    """Respond with the built file at this path. If there is none, respond with index.html, whose script
    interprets the path. Raises Problem (404) if the path is invalid, or has an extension but there is no such file.

    Files are read again for each request, so a new build does not require a restart of the console.
    """
    path = request.path_params["path"]
    root = STATIC.resolve()
    try:
        file = (root / path).resolve()
        is_file = file.is_file()
    except (OSError, ValueError):  # the name is too long, or has a NUL
        raise Problem(404, "This file does not exist.") from None
    if not file.is_relative_to(root) or (not is_file and "." in path.rpartition("/")[2]):
        raise Problem(404, "This file does not exist.")
    if not is_file:
        file = root / "index.html"
        if not file.is_file():
            return HTMLResponse(NO_PAGES)
    is_hashed = file.is_relative_to(root / "assets")
    return FileResponse(
        file,
        headers={"Cache-Control": "public, max-age=31536000, immutable" if is_hashed else "no-cache"},
    )
