"""The commands that inspect pipes, load files and repair failed loads."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from cli.command_errors import one_line
from cli.counts import count
from cli.deadline import NoAnswerError
from cli.parse_time import parse_time
from cli.print_rows import show, tell
from cli.refusal import Refusal
from contract.archive_object import metadata
from snowpipe import apply as applying
from snowpipe import archive, loading, pipe_health, pipes
from snowpipe.deployed_stage import Json, Outputs, Since, Stage, Which, stage_of
from snowpipe.history import FAILED, Narrow
from snowpipe.history import history as copy_history
from snowpipe.history import validate as validate_failed
from snowpipe.pipes import Pipe
from snowpipe.recreate import Recreation
from snowpipe.repair import REPAIRED, repaired_object
from snowpipe.roles import administrator, loader
from snowpipe.warehouse import Row, Snowflake

QUEUE_TIMEOUT = timedelta(minutes=10)
"""The time within which a resumed pipe must load the files in its queue."""


def status(
    context: typer.Context, outputs: Outputs = None, as_json: Json = False, pipe: Which = None
) -> None:
    """Show the state of each pipe and its meaning.

    Exit codes: 0: all pipes are healthy; 1: a pipe is not healthy; 2: S3 or Snowflake does not respond or
    returns an error.
    """
    stage = stage_of(context, outputs)
    rows: list[Row] = []
    silent: Refusal | None = None
    with stage.checked_warehouse(loader) as session:
        for each in stage.pipes(pipe):
            found, created_at = pipes.status(session, each), pipes.created_at(session, each)
            newest = None
            if not silent:
                try:
                    newest = stage.archive.newest(each.prefix, created_at)
                except Refusal as error:
                    silent = error
            verdict = pipe_health.triage(found, newest.modified_at if newest else None)
            rows.append(pipe_health.row(each, found, verdict))
    show(rows, as_json)
    if silent:
        tell(f"{silent}; it is therefore unknown whether the pipes received a notification for every object")
        raise typer.Exit(2)
    raise typer.Exit(0 if all(row["healthy"] for row in rows) else 1)


def history(
    context: typer.Context,
    outputs: Outputs = None,
    as_json: Json = False,
    pipe: Which = None,
    since: Since = "24 hours ago",
    failed: Annotated[bool, typer.Option(help="List only files that were not loaded completely.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of loads to list per pipe.")] = 1000,
) -> None:
    """List Snowflake's attempts to load files, newest first (COPY_HISTORY, which goes back 14 days)."""
    start = _time(since)
    stage = stage_of(context, outputs)
    rows: list[Row] = []
    with stage.checked_warehouse(loader) as session:
        narrow = Narrow(FAILED if failed else (), limit=limit + 1)
        for each in stage.pipes(pipe):
            found = copy_history(session, each, start, narrow)
            if len(found) > limit:
                tell(
                    f"{each.name}: the list contains only the newest {count(limit, 'load')}; for more, use --limit"
                )
            rows += found[:limit]
    show(rows, as_json, none="no files")


def validate(
    context: typer.Context,
    outputs: Outputs = None,
    as_json: Json = False,
    pipe: Which = None,
    since: Since = "14 days ago",
) -> None:
    """Show the invalid lines of files that were not loaded or were loaded only in part.

    Exit code 1: there are such files.
    """
    start = _time(since)
    stage = stage_of(context, outputs)
    with stage.checked_warehouse(loader) as session:
        rows = [
            row for each in stage.pipes(pipe) for row in validate_failed(session, each, stage.archive, start)
        ]
    show(rows, as_json, none="no file failed")
    if rows:
        tell(
            "Snowflake does not load a file of the same name again for 14 days, even if the load failed. Repair the "
            "file, then run: milkrun warehouse repair FILE --instead-of KEY"
        )
    raise typer.Exit(1 if rows else 0)


def refresh(
    context: typer.Context,
    outputs: Outputs = None,
    as_json: Json = False,
    pipe: Which = None,
    prefix: Annotated[
        str,
        typer.Option(
            metavar="PREFIX",
            help="Queue only files with this prefix under events/ or rejected/, such as dt=2026-11-16/.",
        ),
    ] = "",
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Queue only files that were received at this time or later."),
    ] = None,
) -> None:
    """Queue the files for which the pipes received no notification.

    Exit code 1: REFRESH cannot queue some files, because they are older than 7 days or were received before the
    pipe was recreated. Load them with `backfill`.
    """
    start = None if since is None else _time(since)
    stage = stage_of(context, outputs)
    rows = []
    with stage.checked_warehouse(loader) as session:
        for each in stage.pipes(pipe):
            done = loading.refresh(session, each, stage.archive, prefix, start)
            rows += [{"key": key, "result": "queued"} for key in done.sent]
            rows += [{"key": key, "result": "too old"} for key in done.out_of_reach]
    show(rows, as_json, none="nothing to queue")
    missed = sum(row["result"] == "too old" for row in rows)
    if missed:
        tell(
            f"REFRESH cannot load {count(missed, 'file')}: it skips files older than 7 days or older than their pipe. "
            "Run: milkrun warehouse backfill --from TIME"
        )
    raise typer.Exit(1 if missed else 0)


def backfill(
    context: typer.Context,
    start: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="TIME",
            help="First hour to include (time of receipt).",
        ),
    ],
    end: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="TIME",
            help="Last hour to include (time of receipt).",
        ),
    ] = "now",
    outputs: Outputs = None,
    as_json: Json = False,
    pipe: Which = None,
) -> None:
    """Load the objects that were received in a range of hours and are neither loaded nor in the pipe's queue.

    Exit code 1: some files could not be loaded.
    """
    first, last = _time(start), _time(end)
    if first > last:
        raise Refusal(f"--from {start} is after --to {end}")
    stage = stage_of(context, outputs)
    rows: list[Row] = []
    with stage.checked_warehouse(loader) as session:
        for each in stage.pipes(pipe):
            copy = stage.definition(each).copy_statement
            done = loading.backfill(
                session,
                each,
                stage.archive,
                copy,
                first,
                last,
                lambda n: tell(f"COPY has processed {count(n, 'file')} so far"),
            )
            tell(
                f"{each.name}: COPY processed {count(done.copied, 'file')}; {done.skipped:,} skipped (already loaded "
                "or queued)"
            )
            if done.copied > len(done.rows):
                tell(
                    f"the list contains about the first {loading.LISTED} files, and later ones only if they failed"
                )
            rows += done.rows
    show(rows, as_json, none="nothing was missing")
    raise typer.Exit(1 if any(row["status"] != "LOADED" for row in rows) else 0)


def reload(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="KEY", help="Key of the object to load again.")],
    outputs: Outputs = None,
    as_json: Json = False,
) -> None:
    """Replace the rows of one object with the object's current content, in one transaction."""
    if not file:
        raise Refusal("KEY is empty: give the key of an object under events/ or rejected/")
    stage = stage_of(context, outputs)
    key = file.removeprefix(f"s3://{stage.archive.bucket}/")
    found = [each for each in stage.pipes() if key.startswith(each.prefix)]
    if not found:
        raise Refusal(f"{file}: a key must begin with events/ or rejected/")
    copy = stage.definition(found[0]).copy_statement
    with stage.checked_warehouse(loader) as session:
        show([loading.reload(session, found[0], stage.archive, copy, key)], as_json)


def repair(
    context: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(
            exists=True, dir_okay=False, metavar="FILE", help="The repaired file: NDJSON, plain or gzipped."
        ),
    ],
    instead_of: Annotated[
        str,
        typer.Option(
            metavar="KEY", help="Key of the file that failed; the new file gets the same prefix and hour."
        ),
    ] = "",
    outputs: Outputs = None,
    as_json: Json = False,
) -> None:
    """Validate a repaired file and store it in the archive under a new key; Snowpipe then loads it.

    The failed file is kept. Once `history` shows that the new file is loaded, delete the failed one.
    """
    from botocore.exceptions import ClientError

    found = repaired_object(file, instead_of, datetime.now(UTC))
    stage = stage_of(context, outputs)
    bucket = archive.bucket_of(stage.settings)
    try:
        stage.aws("s3").put_object(
            Bucket=bucket,
            Key=found.key,
            Body=found.body,
            IfNoneMatch="*",  # the bucket's policy does not allow replacing an archived event
            # Tells `reconcile` why no log line of a request names this object.
            Metadata=metadata({REPAIRED: instead_of or file.name}),
        )
    except ClientError as error:
        if error.response["Error"]["Code"] != "PreconditionFailed":
            raise
        raise Refusal(
            f"s3://{bucket}/{found.key} already contains these lines. If Snowpipe did not load them, run: "
            f"milkrun warehouse reload {found.key}",
            1,
        ) from None
    show([{"key": found.key, "lines": found.lines}], as_json)


def pause(context: typer.Context, outputs: Outputs = None, as_json: Json = False, pipe: Which = None) -> None:
    """Pause pipes. New files wait in the queue. A pipe that is paused for more than 14 days becomes stale."""
    stage = stage_of(context, outputs)
    rows = []
    refused: list[Refusal] = []
    with stage.checked_warehouse(loader) as session:
        for each in stage.pipes(pipe):
            with _noting(refused):
                pipes.set_paused(session, each, True)
                rows.append({"pipe": each.name, "state": pipes.status(session, each).state})
    show(rows, as_json, none="no pipe was paused")
    _end({}, refused)


@contextmanager
def _noting(refused: list[Refusal]) -> Iterator[None]:
    """Add a Refusal that concerns one pipe to `refused`, so that the command goes on with the next pipe."""
    try:
        yield
    except NoAnswerError:
        raise
    except Refusal as error:
        refused.append(error)


def resume(
    context: typer.Context,
    outputs: Outputs = None,
    as_json: Json = False,
    pipe: Which = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Time at which the pipe was paused. Default for a stale pipe: its last load."
        ),
    ] = None,
) -> None:
    """Resume pipes.

    If a pipe is stale (paused for more than 14 days) or --since is given, the command also loads the files whose
    notifications have expired. Exit code 1: some of these files could not be loaded.
    """
    start = None if since is None else _time(since)
    stage = stage_of(context, outputs)
    rows = []
    failed: list[Row] = []
    refused: list[Refusal] = []
    with stage.checked_warehouse(loader) as session:
        for each in stage.pipes(pipe):
            with _noting(refused):
                found = _resume(stage, session, each, start)
                loaded = [row for row in found if row["result"] in ("queued", "LOADED")]
                failed += [row for row in found if row not in loaded]
                state = pipes.status(session, each).state
                rows.append({"pipe": each.name, "state": state, "expired_files": len(loaded)})
    show(rows, as_json, none="no pipe was resumed completely")
    _end({row["key"]: row["result"] for row in failed}, refused)


def _resume(stage: Stage, session: Snowflake, pipe: Pipe, since: datetime | None) -> list[Row]:
    """Resume one pipe. If it was stale or `since` is given, load the files whose notifications
    expired, and return a row for each.
    """
    before = pipes.status(session, pipe)
    try:
        pipes.set_paused(session, pipe, False)
        if since is None:
            return []
    except NoAnswerError:
        raise
    except Refusal:
        if before.state != "PAUSED":
            raise
        # Snowflake documents no error number for a stale pipe, so the pipe is forced to resume after any error. If the
        # cause is a different one, this statement fails, too.
        pipes.force_resume(session, pipe)
        since = since or before.ingested_at
        if since is None:
            raise Refusal(
                f"{pipe.name} is resumed, but it is unknown when it was paused. "
                "Run: milkrun warehouse resume --since TIME",
                1,
            ) from None
        tell(
            f"{pipe.name} was stale; loading files received since {since.isoformat()} whose notifications expired. "
            f"If this is interrupted, run: milkrun warehouse resume --pipe {pipe.kind} --since {since.isoformat()}"
        )
    copy = stage.definition(pipe).copy_statement
    return loading.load_expired(session, pipe, stage.archive, copy, since, QUEUE_TIMEOUT)


def recreate(
    context: typer.Context,
    outputs: Outputs = None,
    as_json: Json = False,
    pipe: Which = None,
    everything: Annotated[
        bool,
        typer.Option("--all", help="Replace every selected pipe, even if it does not need to be replaced."),
    ] = False,
) -> None:
    """Replace pipes without losing files or loading them twice. The command can be interrupted and repeated.

    By default, it replaces only the pipes whose COPY statement has changed, those in a state for which
    `milkrun warehouse status` advises `recreate`, and those whose replacement was interrupted. Exit code 1: some files
    could not be loaded.
    """
    stage = stage_of(context, outputs)
    rows: list[Row] = []
    failed: list[Row] = []
    refused: list[Refusal] = []
    with stage.checked_warehouse(administrator) as session:
        changed = set(applying.changed_pipes(session, stage.ddl))
        live = applying.live_copies(session, stage.ddl)
        for each in stage.pipes(pipe):
            state = stage.settings.folder / f"recreate-{each.name.lower()}.json"
            broken = each.name in live and pipes.status(session, each).state in pipe_health.NEED_RECREATE
            if not (everything or each.name in changed or broken or state.exists()):
                continue
            recreation = Recreation(session, each, stage.definition(each), stage.archive, state, tell)
            with _noting(refused):
                try:
                    repaired = recreation.run()
                finally:
                    failed += recreation.failed
                rows.append({"pipe": each.name, "result": "recreated", "loaded_by_hand": repaired})
    none = "no pipe was recreated" if refused else "no pipe needs to be recreated; --all recreates every pipe"
    show(rows, as_json, none=none)
    _end({row["key"]: row["status"] for row in failed}, refused)


def _end(not_loaded: Mapping[str, str], refused: Sequence[Refusal] = ()) -> None:
    """Print the files that COPY could not load, with their statuses, and the errors of single pipes. If there are any,
    end the command with the last error, or with exit code 1.
    """
    for key, status_ in not_loaded.items():
        tell(f"{key} was not loaded ({status_}); see: milkrun warehouse validate")
    for error in refused[:-1]:
        tell(one_line(str(error)))
    if refused:
        raise refused[-1]
    if not_loaded:
        raise typer.Exit(1)


def _time(text: str) -> datetime:
    try:
        return parse_time(text, datetime.now(UTC))
    except ValueError as error:
        raise Refusal(str(error)) from None
