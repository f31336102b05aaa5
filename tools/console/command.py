"""`milkrun console`: serve the console of one stage on loopback."""

import contextlib
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, cast

import typer

from ops import terminal
from ops.stage_outputs import Outputs
from tools.stack import console as stack_console
from tools.stack.settings import LOOPBACK, Settings

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

    from tools.console.request_guard import RequestGuard
    from tools.console.routes import Console

# The maximum age of the marts of a stage with an hourly DAG.
MARTS_TIMEOUT_S = 2.5 * 3600
REQUEST_SECONDS = 10.0


def command(
    context: typer.Context,
    *,
    port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="Port on 127.0.0.1; 0 selects a free port. Default: the base port of the stack plus 2.",
        ),
    ] = None,
    live_bus: Annotated[
        bool,
        typer.Option(
            "--live-bus/--no-live-bus",
            help="Receive notifications through a queue that the console creates; without them, the console "
            "only polls.",
        ),
    ] = True,
    warehouse_every: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=terminal.MAX_SECONDS,
            help=(
                "Seconds between two queries of Snowflake while a page is open; 0 means only on demand. "
                "Default: 5 for the local stack, 300 for a deployed stage."
            ),
        ),
    ] = None,
    reconcile_every: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=terminal.MAX_SECONDS,
            help=(
                "Seconds between two comparisons of the stores while a page is open; 0 means only on demand. "
                "Default: 300 for the local stack, 0 for a deployed stage."
            ),
        ),
    ] = None,
    fences: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            metavar="FILE",
            help="GeoJSON file with the fences. Default: derive the fences from events.",
        ),
    ] = None,
    tiles: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="URL template of online map tiles: https://host/{z}/{x}/{y}.png. Default: no tiles.",
        ),
    ] = None,
    stage: terminal.Stage = "local",
) -> None:
    """Serve the web console, which shows trucks on a map, the pipeline, events and visits.

    If the local stack's console is already running, the command only prints that console's address, and refuses options
    that would change the console. Add --port to start another console.
    """
    environment: Mapping[str, str] = context.obj
    if tiles is not None and not re.fullmatch(r"https?://[A-Za-z0-9.-]+(:\d+)?/[^\s;,'\"]*", tiles):
        raise typer.BadParameter("--tiles must be an http or https URL such as https://host/{z}/{x}/{y}.png")
    outputs = terminal.outputs_of(context, stage)
    settings = Settings.of(environment)
    if stage == "local" and port is None and stack_console.is_ready(settings):
        names = ("live_bus", "warehouse_every", "reconcile_every", "fences", "tiles")
        if any(terminal.is_given(context, name) for name in names):
            raise typer.BadParameter(
                f"the local stack's console already runs at {settings.console_url} without these options; "
                "start another one with --port 0"
            )
        typer.echo(settings.console_url)
        return
    with _listener(settings.console_port if port is None else port) as listener:
        _spare_memory()
        # Print a line instead of a traceback if a thread fails, such as a library's thread whose connection was closed.
        threading.excepthook = lambda fault: terminal.err.print(
            f"a background thread failed: {fault.exc_type.__name__}"
        )
        port = listener.getsockname()[1]
        console, app = made(
            outputs,
            stage,
            port=port,
            live_bus=live_bus,
            warehouse_every=warehouse_every,
            reconcile_every=reconcile_every,
            fences=fences,
            tiles=tiles,
        )
        server = server_of(app, at_exit=console.hub.close)
        terminal.err.print(f"Console of stage {stage}: http://{LOOPBACK}:{port}")
        server.run(sockets=[listener])


@contextlib.contextmanager
def _listener(port: int) -> Iterator[socket.socket]:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
        except OSError as error:
            raise typer.BadParameter(f"cannot use port {port}: {error}; choose another with --port") from None
        listener.listen(128)  # clients may connect as soon as the address is printed
        yield listener


def server_of(
    app: "ASGIApp", request_seconds: float = REQUEST_SECONDS, at_exit: Callable[[], None] = lambda: None
) -> "uvicorn.Server":
    import asyncio

    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Protocol(H11Protocol):
        """An HTTP protocol that closes a connection if the client has not sent all headers of a request within
        `request_seconds`. uvicorn would keep the connection open.
        """

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(cast("asyncio.Transport", transport))
            self.loop.call_later(request_seconds, self._close_if_silent)

        def _close_if_silent(self) -> None:
            if not self.cycle:  # uvicorn sets it when a request's headers are complete
                self.transport.close()

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            at_exit()
            super().handle_exit(sig, frame)

    config = uvicorn.Config(
        app,
        http=Protocol,
        log_level="error",  # a warning for every invalid request would let anybody fill the disk
        access_log=False,  # paths contain device ids, which are personal data
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=1,
    )
    return Server(config)


def _spare_memory() -> None:
    """Prevent the import of unused packages, and limit glibc's memory arenas. The packages would take 70 MiB of the
    200 MiB that the console may use.
    """
    import ctypes
    import sys

    # The Snowflake connector imports numpy and pyarrow if they are installed (its extra `pandas`); we fetch
    # rows without them.
    for name in ("numpy", "pyarrow"):
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # importing it fails from now on
    # glibc would give each thread its own arena, which never shrinks.
    arena_max = -8
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").mallopt(arena_max, 2)


def made(
    outputs: Outputs,
    stage: str,
    *,
    port: int,
    live_bus: bool = True,
    warehouse_every: float | None = None,
    reconcile_every: float | None = None,
    fences: Path | None = None,
    tiles: str | None = None,
) -> tuple["Console", "RequestGuard"]:
    """Return the console of a stage, and the console's ASGI application behind the request guard."""
    from tools.console.change_queue import ChangeQueue
    from tools.console.fleet import places_in
    from tools.console.polling import Clients
    from tools.console.routes import Console
    from tools.console.state import ConsoleState
    from tools.console.update_intervals import DEPLOYED, LOCAL

    is_local = stage == "local"
    pace = LOCAL if is_local else DEPLOYED
    if warehouse_every is not None:
        pace = replace(pace, warehouse=warehouse_every)
    if reconcile_every is not None:
        pace = replace(pace, reconcile=reconcile_every)
    try:
        places = places_in(fences) if fences else []
    except ValueError as fault:
        raise typer.BadParameter(str(fault)) from None
    password = outputs.snowflake.password
    state = ConsoleState(
        {
            "stage": stage,
            "local": is_local,
            "region": outputs.region,
            "endpoint": outputs.endpoint,
            "bucket": outputs.bucket,
            "database": outputs.database,
            "version": _version(),
            "live_bus": live_bus,
            "tiles": tiles,
            "time_zone": outputs.time_zone,
        },
        places=places,
        exclusive_tags=outputs.exclusive_tags,
        secrets=(outputs.api_key, password.get_secret_value() if password else ""),
        marts_max_wait_s=None if is_local else MARTS_TIMEOUT_S,
    )
    live = ChangeQueue(Clients(outputs), stage, outputs.bucket, str(port)) if live_bus else None
    console = Console(outputs, stage, state, pace=pace, live=live, is_local=is_local)
    return console, console.app([port], tiles)


def _version() -> str:
    try:
        return version("milkrun")
    except PackageNotFoundError:
        import tomllib

        from ops.stage_outputs import ROOT

        project: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        return str(project["version"])
