"""Set up, load, check and query the warehouse.

Exit code 0: done; 1: the answer is no; 2: could not look.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import typer

from contract.objects import metadata
from snowpipe import apply as applying
from snowpipe import archive, commandline, loading, pipes, policies, sqlite, template, transform, warehouse
from snowpipe.archive import Archive
from snowpipe.bootstrap import Bootstrap
from snowpipe.drift import differences
from snowpipe.finite import finite
from snowpipe.history import FAILED, Narrow
from snowpipe.history import history as copy_history
from snowpipe.history import validate as validate_failed
from snowpipe.pipes import Kind, Pipe
from snowpipe.recreate import Recreation
from snowpipe.refusal import Refusal
from snowpipe.repair import REPAIRED, repaired_object
from snowpipe.roles import Role, administrator, loader, operator
from snowpipe.settings import Settings, load, load_aws
from snowpipe.template import Definition, Parameters
from snowpipe.times import instant
from snowpipe.warehouse import Row, Snowflake

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

PATIENCE = timedelta(minutes=10)
"""How long a resumed pipe may take to load its queue."""

Outputs = Annotated[
    Path | None, typer.Option(help="A stack's outputs.json. Default: SNOWFLAKE_* or the running stack")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON")]
Which = Annotated[Kind | None, typer.Option("--pipe", help="Only this pipe (default: both)")]
Since = Annotated[str, typer.Option(help="ISO-8601 or a phrase such as '2 hours ago'")]


@dataclass
class Stage:
    """The stage that a command works on; everything is looked up on first use."""

    settings: Settings

    @cached_property
    def parameters(self) -> Parameters:
        return archive.parameters(self.settings)

    @cached_property
    def ddl(self) -> list[Definition]:
        return template.definitions(self.parameters)

    @cached_property
    def archive(self) -> Archive:
        return Archive(archive.s3_client(self.settings.aws), archive.bucket_of(self.settings))

    @contextmanager
    def warehouse(self, role: Role) -> Iterator[Snowflake]:
        with warehouse.connect(self.settings.connection, role=role) as session:
            yield session

    def pipes(self, kind: Kind | None = None) -> list[Pipe]:
        return pipes.pipes(self.settings.connection.database, kind)

    def definition(self, pipe: Pipe) -> Definition:
        return next(d for d in self.ddl if d.is_pipe and d.pipe == pipe.name)

    def refuse_to_change_aws(self) -> None:
        if not self.settings.aws.is_emulated:
            raise Refusal(
                "--write is refused: CloudFormation owns the role and the topic's policy of a "
                "deployed stage, and its next deployment would undo the change. Without --write, "
                "bootstrap prints the parameters to set in serverless/params.yml."
            )

    def aws(self, service: str) -> Any:
        return archive.client(self.settings.aws, service)


def stage_of(context: typer.Context, outputs: Path | None) -> Stage:
    """Return the stage that the command works on; `context.obj` is the environment of the process."""
    return Stage(load(context.obj, outputs))


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    return commandline.run(app, arguments, obj=environment, environment=environment, tell=tell)


def tell(line: str) -> None:
    """Print progress to stderr, so that stdout has only JSON with --json."""
    typer.echo(line, err=True)


def shown(value: object) -> object:
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return str(value)


def show(rows: Sequence[Row], as_json: bool, none: str = "no rows") -> None:
    """Print rows as a JSON list, or as a table, or one below the other if the table would not fit."""
    if as_json:
        typer.echo(json.dumps(finite(rows), default=shown, indent=2, allow_nan=False))
        return
    if not rows:
        typer.echo(none)
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.measure import Measurement
    from rich.table import Table

    from snowpipe.printable import printable

    texts = [["" if value is None else printable(str(value)) for value in row.values()] for row in rows]
    console, table = Console(), Table(*map(escape, rows[0]))
    for text in texts:
        table.add_row(*map(escape, text))
    if Measurement.get(console, console.options.update(max_width=10_000), table).maximum <= console.width:
        console.print(table)
        return
    for text in texts:
        typer.echo(
            "\n".join(
                f"{name:<{max(map(len, rows[0]))}}  {cell}" for name, cell in zip(rows[0], text, strict=True)
            )
        )
        typer.echo()


# --- objects


@app.command()
def apply(
    context: typer.Context,
    outputs: Outputs = None,
    as_json: Json = False,
    dry_run: Annotated[bool, typer.Option(help="Show what would run; change nothing")] = False,
    sql: Annotated[bool, typer.Option(help="Print the statements without connecting")] = False,
) -> None:
    """Create missing objects of the DDL and update existing ones. Refuses if a pipe's COPY has changed."""
    stage = stage_of(context, outputs)
    if sql:
        for definition in stage.ddl:
            typer.echo(f"-- {definition.path.name}\n{definition.sql}")
        return
    ddl = stage.ddl
    with stage.warehouse(administrator) as session:
        show(applying.apply(session, ddl, dry_run), as_json)


@app.command()
def diff(context: typer.Context, outputs: Outputs = None, as_json: Json = False) -> None:
    """List every difference between the deployed objects and the DDL, with its repair.

    Exit 1 if there are any.
    """
    stage = stage_of(context, outputs)
    with stage.warehouse(administrator) as session:
        rows = [asdict(each) for each in differences(session, stage.ddl)]
    show(rows, as_json, none="the deployed objects are as in the DDL")
    raise typer.Exit(1 if rows else 0)


@app.command()
def bootstrap(
    context: typer.Context,
    outputs: Outputs = None,
    as_json: Json = False,
    write: Annotated[
        bool, typer.Option(help="Also change role and topic in AWS; for an emulated AWS only")
    ] = False,
) -> None:
    """Set up a new stage; stop with the parameters to set if AWS does not know Snowflake's users yet."""
    stage = stage_of(context, outputs)
    if write:
        stage.refuse_to_change_aws()
    parameters = stage.parameters
    role = policies.Role(stage.aws("iam"), parameters.storage_role_arn)
    topic = policies.Topic(stage.aws("sns"), parameters.topic_arn)
    with stage.warehouse(administrator) as session:
        show(Bootstrap(session, stage.ddl, parameters, role, topic, write, tell).run(), as_json)


@app.command()
def trust_policy(
    context: typer.Context,
    outputs: Outputs = None,
    as_json: Json = False,
    access: Annotated[bool, typer.Option(help="Print the role's permissions instead")] = False,
) -> None:
    """Print the trust policy of the role with which Snowflake reads the bucket."""
    del as_json  # a policy is always JSON
    stage = stage_of(context, outputs)
    if access:
        typer.echo(json.dumps(policies.access_policy(stage.parameters), indent=2, allow_nan=False))
        return
    parameters = stage.parameters
    with stage.warehouse(administrator) as session:
        typer.echo(json.dumps(policies.trust_policy(session, parameters), indent=2, allow_nan=False))


@app.command()
def sns_policy(
    context: typer.Context,
    outputs: Outputs = None,
    as_json: Json = False,
    write: Annotated[bool, typer.Option(help="Set the topic's policy; for an emulated AWS only")] = False,
) -> None:
    """Print the topic's policy with the statement that allows Snowflake to subscribe."""
    del as_json
    stage = stage_of(context, outputs)
    if write:
        stage.refuse_to_change_aws()
    topic = policies.Topic(stage.aws("sns"), stage.parameters.topic_arn)
    with stage.warehouse(administrator) as session:
        wanted = policies.subscription(session, stage.parameters)
    policy = policies.with_statement(topic.policy(), wanted)
    if write:
        topic.write(policy)
    typer.echo(json.dumps(policy, indent=2, allow_nan=False))


# --- how the pipes are


@app.command()
def status(
    context: typer.Context, outputs: Outputs = None, as_json: Json = False, pipe: Which = None
) -> None:
    """Show each pipe's state and what it means. Exit 1 if one is not healthy."""
    stage = stage_of(context, outputs)
    rows = []
    with stage.warehouse(loader) as session:
        for each in stage.pipes(pipe):
            found = pipes.status(session, each)
            newest = stage.archive.newest(each.prefix)
            rows.append(pipes.row(each, found, pipes.triage(found, newest.modified_at if newest else None)))
    show(rows, as_json)
    raise typer.Exit(0 if all(row["healthy"] for row in rows) else 1)


@app.command()
def history(
    context: typer.Context,
    outputs: Outputs = None,
    as_json: Json = False,
    pipe: Which = None,
    since: Since = "24 hours ago",
    failed: Annotated[bool, typer.Option(help="Only files that were not loaded completely")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of files per pipe")] = 1000,
) -> None:
    """List the result of each file, the newest first (COPY_HISTORY: 14 days)."""
    start = instant(since)
    stage = stage_of(context, outputs)
    with stage.warehouse(loader) as session:
        narrow = Narrow(FAILED if failed else (), limit=limit)
        rows = [row for each in stage.pipes(pipe) for row in copy_history(session, each, start, narrow)]
    show(rows, as_json, none="no files")


@app.command()
def validate(
    context: typer.Context,
    outputs: Outputs = None,
    as_json: Json = False,
    pipe: Which = None,
    since: Since = "14 days ago",
) -> None:
    """Read the files that failed and show their invalid lines. Exit 1 if there are any."""
    start = instant(since)
    stage = stage_of(context, outputs)
    with stage.warehouse(loader) as session:
        rows = [
            row for each in stage.pipes(pipe) for row in validate_failed(session, each, stage.archive, start)
        ]
    show(rows, as_json, none="no file failed")
    if rows:
        tell(
            "A file name cannot be loaded again for 14 days, even if it failed: repair it, then "
            "run: repair FILE --instead-of KEY."
        )
    raise typer.Exit(1 if rows else 0)


# --- loading


@app.command()
def refresh(
    context: typer.Context,
    outputs: Outputs = None,
    as_json: Json = False,
    pipe: Which = None,
    prefix: Annotated[str, typer.Option(help="Only keys that begin so, such as dt=2026-11-16/")] = "",
    since: Annotated[
        str | None, typer.Option(help="Objects received since then; ISO-8601 or a phrase")
    ] = None,
) -> None:
    """Queue files for which the pipes received no notification.

    Exit 1 if some are older than 7 days, the limit of REFRESH.
    """
    start = None if since is None else instant(since)
    stage = stage_of(context, outputs)
    rows = []
    with stage.warehouse(loader) as session:
        for each in stage.pipes(pipe):
            done = loading.refresh(session, each, stage.archive, prefix, start)
            rows += [{"key": key, "result": "queued"} for key in done.sent]
            rows += [{"key": key, "result": "too old"} for key in done.out_of_reach]
    show(rows, as_json, none="nothing to queue")
    missed = sum(row["result"] == "too old" for row in rows)
    if missed:
        tell(f"{missed} file(s) are older than the 7 days of REFRESH: run backfill for them")
    raise typer.Exit(1 if missed else 0)


@app.command()
def backfill(
    context: typer.Context,
    start: Annotated[str, typer.Option("--from", help="First hour received; ISO-8601 or a phrase")],
    end: Annotated[str, typer.Option("--to", help="Last hour received; ISO-8601 or a phrase")] = "now",
    outputs: Outputs = None,
    as_json: Json = False,
    pipe: Which = None,
) -> None:
    """Load the objects of these hours that are not loaded yet, at most 1000 files per COPY."""
    first, last = instant(start), instant(end)
    if first > last:
        raise Refusal(f"--from {start} is after --to {end}")
    stage = stage_of(context, outputs)
    rows: list[Row] = []
    with stage.warehouse(loader) as session:
        for each in stage.pipes(pipe):
            copy = stage.definition(each).copy_statement
            done, left_out = loading.backfill(
                session, each, stage.archive, copy, first, last, lambda n: tell(f"{n} file(s) so far")
            )
            tell(f"{each.name}: {len(done)} file(s) copied, {left_out} skipped that are loaded or queued")
            rows += done
    show(rows, as_json, none="nothing was missing")
    raise typer.Exit(1 if any(row["status"] != "LOADED" for row in rows) else 0)


@app.command()
def reload(context: typer.Context, file: str, outputs: Outputs = None, as_json: Json = False) -> None:
    """Replace one object's rows by the object's current content, in one transaction. FILE is its key."""
    if not file:
        raise Refusal("FILE is empty: give an object's key, which begins with events/ or rejected/")
    stage = stage_of(context, outputs)
    key = file.removeprefix(f"s3://{stage.archive.bucket}/")
    found = [each for each in stage.pipes() if key.startswith(each.prefix)]
    if not found:
        raise Refusal(f"{file}: a key must begin with events/ or rejected/")
    copy = stage.definition(found[0]).copy_statement
    with stage.warehouse(loader) as session:
        show([loading.reload(session, found[0], stage.archive, copy, key)], as_json)


@app.command()
def repair(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="NDJSON, plain or gzip")],
    instead_of: Annotated[
        str, typer.Option(help="The key of the file that failed: its prefix and hour")
    ] = "",
    outputs: Outputs = None,
    as_json: Json = False,
) -> None:
    """Validate a repaired file and store it in the archive under a new key; Snowpipe then loads it.

    The failed file stays: delete it when `history` shows that the new one is loaded.
    """
    found = repaired_object(file, instead_of, datetime.now(UTC))
    stage = stage_of(context, outputs)
    stage.aws("s3").put_object(
        Bucket=archive.bucket_of(stage.settings),
        Key=found.key,
        Body=found.body,
        IfNoneMatch="*",  # the bucket's policy does not allow replacing an archived event
        # Tells `reconcile` why no request's log line names this object.
        Metadata=metadata({REPAIRED: instead_of or file.name}),
    )
    show([{"key": found.key, "lines": found.lines}], as_json)


@app.command()
def pause(context: typer.Context, outputs: Outputs = None, as_json: Json = False, pipe: Which = None) -> None:
    """Pause pipes; their files wait. After 14 days a paused pipe is stale."""
    stage = stage_of(context, outputs)
    rows = []
    with stage.warehouse(loader) as session:
        for each in stage.pipes(pipe):
            pipes.set_paused(session, each, True)
            rows.append({"pipe": each.name, "state": pipes.status(session, each).state})
    show(rows, as_json)


@app.command()
def resume(
    context: typer.Context,
    outputs: Outputs = None,
    as_json: Json = False,
    pipe: Which = None,
    since: Annotated[
        str | None, typer.Option(help="When a stale pipe was paused. Default: its last load")
    ] = None,
) -> None:
    """Resume pipes.

    A stale pipe (paused for over 14 days) also loads the files whose notifications expired.
    """
    start = None if since is None else instant(since)
    stage = stage_of(context, outputs)
    rows = []
    with stage.warehouse(loader) as session:
        for each in stage.pipes(pipe):
            loaded = _resume(stage, session, each, start)
            rows.append(
                {"pipe": each.name, "state": pipes.status(session, each).state, "expired_files": len(loaded)}
            )
    show(rows, as_json)


def _resume(stage: Stage, session: Snowflake, pipe: Pipe, since: datetime | None) -> list[Row]:
    """Resume one pipe; return the files loaded because the pipe was stale or `since` is given."""
    before = pipes.status(session, pipe)
    try:
        pipes.set_paused(session, pipe, False)
        if since is None:
            return []
    except Refusal:
        if before.state != "PAUSED":
            raise
        # Snowflake documents no error number for a stale pipe. Only the owner may force a pipe, so this
        # statement raises if the cause is another one.
        with stage.warehouse(administrator) as owner:
            pipes.force_resume(owner, pipe)
        since = since or before.ingested_at
        if since is None:
            raise Refusal(
                f"{pipe.name} is resumed. When was it paused? Run: resume --since TIME", 1
            ) from None
        tell(f"{pipe.name} was stale; loading files since {since.isoformat()} whose notifications expired")
    copy = stage.definition(pipe).copy_statement
    return loading.load_expired(session, pipe, stage.archive, copy, since, PATIENCE)


@app.command()
def recreate(
    context: typer.Context,
    outputs: Outputs = None,
    as_json: Json = False,
    pipe: Which = None,
    everything: Annotated[bool, typer.Option("--all", help="Every pipe")] = False,
) -> None:
    """Replace pipes that need it without losing files or loading them twice; can be interrupted and repeated.

    These are pipes whose COPY has changed, and pipes in a state that has no other remedy (see status).
    """
    stage = stage_of(context, outputs)
    rows: list[Row] = []
    with stage.warehouse(administrator) as session:
        changed = set(applying.changed_pipes(session, stage.ddl))
        live = applying.live_copies(session, stage.ddl)
        for each in stage.pipes(pipe):
            state = stage.settings.folder / f"recreate-{each.name.lower()}.json"
            broken = each.name in live and pipes.status(session, each).state in pipes.NEED_RECREATE
            if not (everything or each.name in changed or broken or state.exists()):
                continue
            recreation = Recreation(session, each, stage.definition(each), stage.archive, state, tell)
            repaired = recreation.run()
            rows.append({"pipe": each.name, "result": "made again", "loaded_by_hand": len(repaired)})
    show(rows, as_json, none="no pipe needs it: --all recreates all")


# --- asking


@app.command()
def query(context: typer.Context, sql: str, outputs: Outputs = None, as_json: Json = False) -> None:
    """Run one statement in the stage's database and print its rows.

    A repeated column name gets a number: NAME_2.
    """
    if not re.sub(r"--[^\n]*|//[^\n]*|/\*.*?\*/|[\s;]", "", sql, flags=re.DOTALL):
        raise Refusal("the statement is empty")
    stage = stage_of(context, outputs)
    with stage.warehouse(operator) as session:
        session.query(f"USE DATABASE {stage.settings.connection.database}")
        show(session.query(sql), as_json)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def dbt(context: typer.Context, outputs: Outputs = None) -> None:
    """Run dbt on the stage's warehouse; arguments are dbt's own, such as `build --select geofence_visits`."""
    settings = load(context.obj, outputs)
    raise typer.Exit(transform.dbt(context.args, settings, context.obj))


@app.command("load")
def load_sqlite(
    context: typer.Context,
    to: Annotated[str, typer.Option("--to", help="sqlite:///FILE")],
    source: Annotated[str, typer.Option("--from", help="s3://BUCKET/PREFIX, or a folder")],
    outputs: Outputs = None,
    as_json: Json = False,
) -> None:
    """Load the archive into SQLite, without a server. Repeated, it adds only new objects."""
    path = sqlite.path_of(to)
    where: sqlite.Source
    if source.startswith("s3://"):
        bucket, _, prefix = source.removeprefix("s3://").partition("/")
        if not bucket:
            raise Refusal(f"{source!r}: --from must be s3://BUCKET/PREFIX, or a folder")
        s3 = archive.s3_client(load_aws(context.obj, outputs))
        where = sqlite.Bucket(Archive(s3, bucket), prefix)
    else:
        if not source:
            raise Refusal("--from is empty: it must be s3://BUCKET/PREFIX, or a folder")
        where = sqlite.Folder(Path(source))
    rows = list(sqlite.load(path, where))
    loaded = [row for row in rows if row["result"] == "loaded"]
    failed = [row for row in rows if row["result"] != "loaded"]
    lines = sum(row["lines"] for row in loaded)
    if as_json:
        show([{"objects": len(loaded), "lines": lines, "left_out": failed}], as_json)
    else:
        typer.echo(f"{len(loaded)} object(s), {lines} event(s) loaded into {path}")
        if failed:
            show(failed, as_json)
    raise typer.Exit(1 if failed else 0)
