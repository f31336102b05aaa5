"""`python -m local_snowflake`: a Snowflake with Snowpipe on this machine."""

import logging
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, NoReturn, TextIO, cast

import structlog
import typer

from local_snowflake.latency import Latency

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def serve(
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 4567,
    folder: Annotated[
        Path, typer.Option("--dir", help="Where databases, stages and histories are kept.")
    ] = Path(".local/snowflake"),
    aws_endpoint_url: Annotated[
        str | None, typer.Option(envvar="AWS_ENDPOINT_URL", help="The AWS to listen to: LocalStack, moto …")
    ] = None,
    region: Annotated[
        str, typer.Option(envvar="AWS_DEFAULT_REGION", help="Region of the queue.")
    ] = "us-east-1",
    login: Annotated[
        str | None,
        typer.Option(
            envvar="LOCAL_SNOWFLAKE_LOGIN",
            help="USER/PASSWORD to accept; without it everybody is let in. The variable does not show in `ps`.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seeds the late, repeated and shuffled deliveries.")] = 0,
    in_order: Annotated[bool, typer.Option("--in-order", help="Deliver once and in order instead.")] = False,
    latency: Annotated[
        str,
        typer.Option(
            help="Seconds from the queue to the pipe, as 30 or 5-60: each value between is as likely."
        ),
    ] = "0",
    days_ahead: Annotated[
        float, typer.Option(help="Pretend that so many days have passed: load histories run out.")
    ] = 0,
    visibility_seconds: Annotated[
        int, typer.Option(help="A message that was not finished comes back after so long.")
    ] = 20,
    memory_limit: Annotated[str, typer.Option(help="DuckDB's share of memory.")] = "512MB",
    privileges: Annotated[
        bool, typer.Option(help="Check roles and grants on every statement, as Snowflake does.")
    ] = True,
    log_file: Annotated[Path | None, typer.Option(help="Log there instead of to stderr.")] = None,
) -> None:
    """Run a Snowflake with Snowpipe on this machine. It listens on 127.0.0.1 only and keeps all data in
    --dir.
    """
    set_up_logging(log_file)
    if not aws_endpoint_url:
        fail(
            "set AWS_ENDPOINT_URL or --aws-endpoint-url: pipes listen to that AWS, "
            "and to a real one never by chance"
        )
    user, _, password = (login or "").partition("/")
    if login and not (user and password):
        fail("--login wants USER/PASSWORD")
    try:
        wait = Latency.of(latency)
    except ValueError:
        fail("--latency wants seconds, such as 30 or 5-60")
    # asyncio turns off Nagle's algorithm, which costs 40 ms per statement, only for sockets that say that they are TCP.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        fail(f"port {port} of 127.0.0.1 cannot be used ({error.strerror}): choose another with --port")

    # fakesnow and the connector take seconds to import, so everything that can fail is done before.
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
    """Drop log lines that cannot be written, for example on a full disk, because logging must not stop the
    server.
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
