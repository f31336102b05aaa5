"""The command `python -m local_snowflake`, which runs a local Snowflake with Snowpipe."""

import logging
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, NoReturn, TextIO, cast

import structlog
import typer

from local_snowflake.seconds_range import Latency

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def serve(
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 4567,
    folder: Annotated[
        Path, typer.Option("--dir", help="Folder for databases, internal stages and load histories.")
    ] = Path(".local/snowflake"),
    aws_endpoint_url: Annotated[
        str | None,
        typer.Option(envvar="AWS_ENDPOINT_URL", help="URL of the AWS emulator, such as LocalStack or moto."),
    ] = None,
    region: Annotated[
        str, typer.Option(envvar="AWS_DEFAULT_REGION", help="Region of the notification queue.")
    ] = "us-east-1",
    login: Annotated[
        str | None,
        typer.Option(
            envvar="LOCAL_SNOWFLAKE_LOGIN",
            help="The only USER/PASSWORD to accept; by default, any login is accepted. Unlike the option, "
            "the environment variable is not visible in `ps`.",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Seed for delivering messages late, repeatedly and out of order.")
    ] = 0,
    in_order: Annotated[
        bool, typer.Option("--in-order", help="Deliver each message once and in order.")
    ] = False,
    latency: Annotated[
        str,
        typer.Option(
            help="Seconds between receiving a message and passing it to the pipe: a number, or a range such as 5-60."
        ),
    ] = "0",
    days_ahead: Annotated[
        float,
        typer.Option(help="Run the clock this many days ahead, for example to let load histories expire."),
    ] = 0,
    visibility_seconds: Annotated[
        int,
        typer.Option(help="Seconds after which a received message is delivered again unless it was deleted."),
    ] = 20,
    memory_limit: Annotated[str, typer.Option(help="DuckDB's memory limit.")] = "512MB",
    privileges: Annotated[
        bool, typer.Option(help="Check roles and grants on every statement, as Snowflake does.")
    ] = True,
    log_file: Annotated[
        Path | None, typer.Option(help="Write the log to this file instead of to stderr.")
    ] = None,
) -> None:
    """Run a local Snowflake with Snowpipe. It listens only on 127.0.0.1 and stores all data in the folder --dir."""
    set_up_logging(log_file)
    if not aws_endpoint_url:
        fail(
            "set AWS_ENDPOINT_URL or --aws-endpoint-url. There is no default, "
            "so that pipes never use a real AWS account by accident."
        )
    user, _, password = (login or "").partition("/")
    if login and not (user and password):
        fail("--login must be USER/PASSWORD")
    try:
        wait = Latency.of(latency)
    except ValueError:
        fail("--latency must be seconds, such as 30 or 5-60")
    # asyncio turns off Nagle's algorithm, which costs 40 ms per statement, only for sockets created with IPPROTO_TCP.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        fail(f"port {port} of 127.0.0.1 cannot be used ({error.strerror}). Choose another port with --port.")

    # fakesnow and the connector take seconds to import, so everything that can fail without them is done first.
    import duckdb

    from local_snowflake.engine import FolderInUse
    from local_snowflake.process import Process

    try:
        process = Process(
            folder,
            aws_endpoint_url=aws_endpoint_url,
            region=region,
            login=(user, password) if login else None,
            seed=None if in_order else seed,
            latency=wait,
            days_ahead=days_ahead,
            visibility_seconds=visibility_seconds,
            memory_limit=memory_limit,
            privileges=privileges,
        )
    except FolderInUse as error:
        fail(str(error))
    except OSError as error:
        fail(f"{folder} cannot be used: {error}")
    except duckdb.Error as error:  # for example, a damaged file or a full disk
        fail(f"the databases in {folder} cannot be opened: {str(error).splitlines()[0]}")
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, lambda *_: process.stop())
    sys.exit(process.run(listener))


def set_up_logging(log_file: Path | None) -> None:
    if log_file:
        log_file.parent.mkdir(parents=True, exist_ok=True)
    output = Output(log_file.open("a", buffering=1) if log_file else sys.stderr)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, output)),
    )


class Output:
    """A log output that drops lines that cannot be written, for example on a full disk, because logging must
    not stop the server.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> None:
        with suppress(OSError):
            self._file.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._file.flush()


def fail(reason: str) -> NoReturn:
    typer.echo(f"local_snowflake: {reason}", err=True)
    raise typer.Exit(2)


if __name__ == "__main__":
    app(prog_name="python -m local_snowflake")
