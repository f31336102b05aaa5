"""Set up, load, check and query the warehouse.

Exit codes: 0: success; 1: the command found a problem; 2: the result could not be determined.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cli import command_errors
from cli.counts import count
from cli.print_rows import show, tell
from cli.refusal import Refusal
from snowpipe import apply as applying
from snowpipe import archive, aws_policies, pipe_commands, run_dbt, sqlite
from snowpipe.archive import Archive
from snowpipe.bootstrap import Bootstrap
from snowpipe.deployed_stage import Json, Outputs, stage_of
from snowpipe.drift import differences
from snowpipe.roles import administrator, operator
from snowpipe.settings import load, load_aws

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    return command_errors.run(app, arguments, obj=environment, environment=environment, tell=tell)


# --- objects


@app.command()
def apply(
    context: typer.Context,
    outputs: Outputs = None,
    as_json: Json = False,
    dry_run: Annotated[
        bool, typer.Option(help="List the DDL files and repairs that would run, and change nothing.")
    ] = False,
    sql: Annotated[
        bool, typer.Option(help="Print all statements of the DDL without connecting to Snowflake.")
    ] = False,
) -> None:
    """Create the missing objects of the DDL, and change existing ones where this cannot lose data.

    Fails without any change if a pipe's COPY statement or the URL of a Snowflake stage differs from the DDL.
    """
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
    """List the differences between the deployed objects and the DDL, each with the statement or command that repairs
    it. Differences in a table's columns come with advice instead.

    Exit code 1: there are differences.
    """
    stage = stage_of(context, outputs)
    with stage.warehouse(administrator) as session:
        rows = [asdict(each) for each in differences(session, stage.ddl)]
    show(rows, as_json, none="the deployed objects match the DDL")
    raise typer.Exit(1 if rows else 0)


@app.command()
def bootstrap(
    context: typer.Context,
    outputs: Outputs = None,
    as_json: Json = False,
    write: Annotated[
        bool, typer.Option(help="Also change the role and the topic's policy. Only for an emulated AWS.")
    ] = False,
) -> None:
    """Set up the warehouse of a new stage. If AWS does not trust Snowflake's users yet, print the stage settings to
    change, and stop.
    """
    stage = stage_of(context, outputs)
    if write:
        stage.refuse_to_change_aws()
    parameters = stage.parameters
    role = aws_policies.Role(stage.aws("iam"), parameters.storage_role_arn)
    topic = aws_policies.Topic(stage.aws("sns"), parameters.topic_arn)
    with stage.warehouse(administrator) as session:
        show(Bootstrap(session, stage.ddl, parameters, role, topic, write, tell).run(), as_json)


@app.command()
def trust_policy(context: typer.Context, outputs: Outputs = None, as_json: Json = False) -> None:
    """Print the trust policy that the IAM role needs so that Snowflake can read the bucket."""
    del as_json  # a policy is always JSON
    stage = stage_of(context, outputs)
    with stage.warehouse(administrator) as session:
        policy = aws_policies.trust_policy(session, stage.parameters)
    typer.echo(json.dumps(policy, indent=2, allow_nan=False))


@app.command()
def sns_policy(
    context: typer.Context,
    outputs: Outputs = None,
    as_json: Json = False,
    write: Annotated[
        bool, typer.Option(help="Also set the topic's policy. Only for an emulated AWS.")
    ] = False,
) -> None:
    """Print the SNS topic's policy, including the statement that allows Snowflake to subscribe."""
    del as_json
    stage = stage_of(context, outputs)
    if write:
        stage.refuse_to_change_aws()
    topic = aws_policies.Topic(stage.aws("sns"), stage.parameters.topic_arn)
    with stage.warehouse(administrator) as session:
        wanted = aws_policies.subscription(session, stage.parameters)
    policy = aws_policies.with_statement(topic.policy(), wanted)
    if write:
        topic.write(policy)
    typer.echo(json.dumps(policy, indent=2, allow_nan=False))


# --- pipes

for _command in (
    pipe_commands.status,
    pipe_commands.history,
    pipe_commands.validate,
    pipe_commands.refresh,
    pipe_commands.backfill,
    pipe_commands.reload,
    pipe_commands.repair,
    pipe_commands.pause,
    pipe_commands.resume,
    pipe_commands.recreate,
):
    app.command()(_command)


# --- queries, dbt and SQLite


@app.command()
def query(
    context: typer.Context,
    sql: Annotated[str, typer.Argument(metavar="SQL", help="The SQL statement to run.")],
    outputs: Outputs = None,
    as_json: Json = False,
) -> None:
    """Run one SQL statement in the stage's database and print the rows of its result.

    If several columns have the same name, the later names get a number, such as `id_2`.
    """
    if not re.sub(r"--[^\n]*|//[^\n]*|/\*.*?\*/|[\s;]", "", sql, flags=re.DOTALL):
        raise Refusal("the statement is empty")
    stage = stage_of(context, outputs)
    with stage.warehouse(operator) as session:
        session.query(f"USE DATABASE {stage.settings.connection.database}")
        show(session.query(sql), as_json)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def dbt(context: typer.Context, outputs: Outputs = None) -> None:
    """Run dbt against the stage's warehouse. All arguments, such as `build --select geofence_visits`, are passed
    to dbt.
    """
    settings = load(context.obj, outputs)
    raise typer.Exit(run_dbt.dbt(context.args, settings, context.obj))


@app.command("load")
def load_sqlite(
    context: typer.Context,
    to: Annotated[
        str, typer.Option("--to", metavar="URL", help="SQLite file to load into, as sqlite:///FILE.")
    ],
    source: Annotated[
        str,
        typer.Option(
            "--from", metavar="SOURCE", help="Archive to load: s3://BUCKET/PREFIX, or a local folder."
        ),
    ],
    outputs: Outputs = None,
    as_json: Json = False,
) -> None:
    """Load the archive into an SQLite file. Repeating the command adds only new objects.

    Exit code 1: some objects could not be loaded.
    """
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
        typer.echo(f"{count(len(loaded), 'object')}, {count(lines, 'line')} loaded into {path}")
        if failed:
            show(failed, as_json)
    raise typer.Exit(1 if failed else 0)
