"""Functions that only Snowflake has, such as SYSTEM$PIPE_STATUS and COPY_HISTORY. A call in a query is
replaced with its result or with a subquery that returns it. A call of a function that is not supported is refused.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime

import botocore.exceptions
import duckdb
from sqlglot import exp

from local_snowflake.authorize import Authority
from local_snowflake.catalog import Catalog
from local_snowflake.catalog_objects import Pipe
from local_snowflake.channel import Channels
from local_snowflake.errors import SnowflakeError, compilation, missing, unsupported
from local_snowflake.integrations import USER_ARN
from local_snowflake.pipes import is_stale
from local_snowflake.plans import NotRunnable
from local_snowflake.snowpipe import Ingest, region_of
from local_snowflake.sql import OURS, STRINGS, Scope, Words, actor_of, hidden, literal, parsed

SCALARS = {"SYSTEM$PIPE_STATUS", "SYSTEM$PIPE_FORCE_RESUME", "SYSTEM$GET_AWS_SNS_IAM_POLICY"}
TABLES = {"COPY_HISTORY", "VALIDATE_PIPE_LOAD", "PIPE_USAGE_HISTORY"}
HISTORY_DAYS = 14
OVERRIDES = {"STALENESS_CHECK_OVERRIDE", "OWNERSHIP_TRANSFER_CHECK_OVERRIDE"}


class Functions:
    def __init__(self, catalog: Catalog, channels: Channels, ingest: Ingest, authority: Authority) -> None:
        self.catalog = catalog
        self.authority = authority
        self.channels = channels
        self.ingest = ingest

    def rewritten(self, words: Words, scope: Scope) -> str | None:
        names = {token.text.upper() for token in words.tokens if token.token_type not in STRINGS}
        unknown = next((name for name in names if name.startswith("SYSTEM$") and name not in SCALARS), None)
        if unknown and unknown not in FAKESNOW_SYSTEM:
            raise unsupported(f"the function {unknown}")
        if "LOAD_HISTORY" in names:  # fakesnow's LOAD_HISTORY is always empty
            raise unsupported("INFORMATION_SCHEMA.LOAD_HISTORY (use COPY_HISTORY)")
        if not names & (SCALARS | TABLES):
            return None
        tree = parsed(words.sql)
        if names & SCALARS and isinstance(tree, exp.Create):
            raise unsupported("a SYSTEM$ function in a view or table")
        for call in list(tree.find_all(exp.Anonymous)):
            name = call.name.upper()
            if name in SCALARS:
                self._put_scalar(call, name, scope)
            elif name in TABLES:
                self._put_table(call, name, scope)
        return tree.sql(dialect="snowflake")

    # ---- SELECT SYSTEM$…('…')

    def _put_scalar(self, call: exp.Anonymous, name: str, scope: Scope) -> None:
        arguments = [argument.name for argument in call.expressions if argument.is_string]
        if len(arguments) != len(call.expressions) or not arguments:
            raise unsupported(f"{name} with arguments other than string literals, or without arguments")
        value = exp.Literal.string(self._scalar(name, arguments, scope))
        if isinstance(call.parent, exp.Select):
            heading = f"{name}({', '.join(literal(argument) for argument in arguments)})"
            call.replace(exp.alias_(value, exp.to_identifier(heading, quoted=True)))
        else:
            call.replace(value)

    def _scalar(self, name: str, arguments: list[str], scope: Scope) -> str:
        if name == "SYSTEM$GET_AWS_SNS_IAM_POLICY":
            return json.dumps(sns_policy(arguments[0]), allow_nan=False)
        pipe = self.catalog.pipe(scope.resolve(name_in(arguments[0])))
        privilege = "MONITOR" if name == "SYSTEM$PIPE_STATUS" else "OPERATE"
        self.authority.require(actor_of(scope), (privilege,), "PIPE", str(pipe.name))
        if name == "SYSTEM$PIPE_STATUS":
            return json.dumps(self.pipe_status(pipe), allow_nan=False)
        self._force_resume(pipe, arguments[1:])
        return json.dumps(self.pipe_status(self.catalog.pipe(pipe.name)), allow_nan=False)

    def _force_resume(self, pipe: Pipe, overrides: Sequence[str]) -> None:
        """Resume a pipe by force. Without a second argument, only the check for a changed owner is overridden
        (Snowflake: "SYSTEM$PIPE_FORCE_RESUME").
        """
        given = {each.strip().upper() for text in overrides for each in text.split(",")}
        if unknown := given - OVERRIDES:
            raise compilation(f"SYSTEM$PIPE_FORCE_RESUME has no option {', '.join(sorted(unknown))}.")
        given = given or {"OWNERSHIP_TRANSFER_CHECK_OVERRIDE"}
        for override, stands in (
            ("STALENESS_CHECK_OVERRIDE", is_stale(pipe, self.catalog.clock())),
            ("OWNERSHIP_TRANSFER_CHECK_OVERRIDE", pipe.transferred),
        ):
            if stands and override not in given:
                raise compilation(
                    f"SYSTEM$PIPE_FORCE_RESUME of pipe {pipe.name} needs {override} in its second argument."
                )
        self.catalog.set_pipe(pipe.name, "transferred", False)
        self.catalog.set_pipe(pipe.name, "paused_on", None)

    def pipe_status(self, pipe: Pipe) -> dict[str, object]:
        activity = self.ingest.activity[pipe.pipe_id]
        status: dict[str, object] = {"executionState": "RUNNING"}
        try:
            self.ingest.runnable(pipe)
        except NotRunnable as reason:
            status["executionState"] = reason.state
            if reason.state != "PAUSED":
                status["error"] = reason.reason
        status["pendingFileCount"], oldest = self.ingest.pending(pipe)
        if oldest:
            status["oldestFileTimestamp"] = instant(oldest)
        if pipe.auto_ingest:
            status |= self._channel_status(pipe)
            for field, moment in (
                ("lastReceivedMessageTimestamp", activity.received),
                ("lastForwardedMessageTimestamp", activity.forwarded),
                ("lastPulledFromChannelTimestamp", activity.pulled),
            ):
                if moment:
                    status[field] = instant(moment)
        path, ingested = self.ingest.last_ingested(pipe)
        if ingested:
            status |= {"lastIngestedTimestamp": instant(ingested), "lastIngestedFilePath": path}
        return status

    def _channel_status(self, pipe: Pipe) -> dict[str, object]:
        channel = self.channels.of_region(region_of(pipe) or self.channels.aws.region)
        status: dict[str, object] = {"notificationChannelName": pipe.channel}
        try:
            status["numOutstandingMessagesOnChannel"] = channel.outstanding()
        except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError) as error:
            status["channelErrorMessage"] = str(error)
        return status

    # ---- SELECT … FROM TABLE(INFORMATION_SCHEMA.…(…))

    def _put_table(self, call: exp.Anonymous, name: str, scope: Scope) -> None:
        table = call.find_ancestor(exp.TableFromRows)
        if table is None:
            raise compilation(f"{name} is a table function: use SELECT … FROM TABLE({name}(…)).")
        if name != "COPY_HISTORY":
            raise self._refusal(call, name, scope)
        database = database_of(table) or scope.database
        arguments = named_arguments(call)
        alias = table.args.get("alias") or exp.TableAlias(this=exp.to_identifier("COPY_HISTORY"))
        query = self._copy_history(arguments, Scope(database, scope.schema, scope.actor))
        table.replace(exp.Subquery(this=query, alias=alias))

    def _refusal(self, call: exp.Anonymous, name: str, scope: Scope) -> SnowflakeError:
        if name != "VALIDATE_PIPE_LOAD":
            return unsupported(f"the table function {name}")
        pipe_name = named_arguments(call).get("PIPE_NAME")
        if pipe_name is not None:
            self.catalog.pipe(scope.resolve(name_in(pipe_name.name)))
        return SnowflakeError(
            "003170",
            "0A000",
            "The local Snowflake does not support VALIDATE_PIPE_LOAD, which Snowflake itself refuses for a "
            "pipe whose COPY statement transforms data. Use COPY_HISTORY to see a pipe's errors.",
        )

    def _copy_history(self, arguments: dict[str, exp.Expr], scope: Scope) -> exp.Expr:
        if "TABLE_NAME" not in arguments or "START_TIME" not in arguments:
            raise compilation("COPY_HISTORY requires TABLE_NAME and START_TIME.", "000938", "22023")
        for argument, value in arguments.items():
            if argument not in ("TABLE_NAME", "START_TIME", "END_TIME", "PIPE_NAME"):
                raise unsupported(f"the argument {argument} of COPY_HISTORY")
            if argument.endswith("_NAME") and not value.is_string:
                raise unsupported(f"COPY_HISTORY with a {argument} that is not a string literal")
        table = scope.resolve(name_in(arguments["TABLE_NAME"].name))
        if table.database not in self.catalog.databases():
            raise missing("Database", table.database)
        # Any privilege on the table is enough (Snowflake: "COPY_HISTORY", usage notes).
        self.authority.require(actor_of(scope), (), "TABLE", str(table))
        self.catalog.create_histories(table.database)
        self._check_start(arguments["START_TIME"])
        start = arguments["START_TIME"].sql(dialect="snowflake")
        limits = ""
        if end := arguments.get("END_TIME"):
            limits = f"AND last_load_time <= ({end.sql(dialect='snowflake')})::TIMESTAMP_TZ"
        if pipe_name := arguments.get("PIPE_NAME"):
            pipe = self.catalog.pipe(scope.resolve(name_in(pipe_name.name))).name
            limits += (
                f" AND (pipe_catalog, pipe_schema, pipe_name) = ({', '.join(literal(part) for part in pipe)})"
            )
        return parsed(
            f"""SELECT file_name AS FILE_NAME, stage_location AS STAGE_LOCATION,
                last_load_time AS LAST_LOAD_TIME, row_count AS ROW_COUNT, row_parsed AS ROW_PARSED,
                file_size AS FILE_SIZE, first_error_message AS FIRST_ERROR_MESSAGE,
                first_error_line_number AS FIRST_ERROR_LINE_NUMBER,
                first_error_character_pos AS FIRST_ERROR_CHARACTER_POS,
                first_error_column_name AS FIRST_ERROR_COLUMN_NAME, error_count AS ERROR_COUNT,
                error_limit AS ERROR_LIMIT, status AS STATUS, {literal(table.database)} AS TABLE_CATALOG_NAME,
                table_schema AS TABLE_SCHEMA_NAME, table_name AS TABLE_NAME,
                pipe_catalog AS PIPE_CATALOG_NAME, pipe_schema AS PIPE_SCHEMA_NAME, pipe_name AS PIPE_NAME,
                pipe_received_time AS PIPE_RECEIVED_TIME, first_commit_time AS FIRST_COMMIT_TIME
            FROM {hidden(table.database)}._local_history
            WHERE table_schema = {literal(table.schema)} AND table_name = {literal(table.name)}
                AND (pipe_id IS NULL AND NOT forgotten OR pipe_id IN (SELECT pipe_id FROM {OURS}.pipes))
                AND last_load_time > DATEADD('day', -{HISTORY_DAYS}, CURRENT_TIMESTAMP())
                AND last_load_time >= ({start})::TIMESTAMP_TZ {limits}"""
        )

    def _check_start(self, start: exp.Expr) -> None:
        """Raise Snowflake's error if the time is not within the last 14 days. An expression that DuckDB cannot evaluate
        alone is not checked.
        """
        moment = start.sql(dialect="duckdb")
        with suppress(duckdb.Error):
            ((is_early,),) = self.catalog.rows(
                f"SELECT ({moment})::TIMESTAMPTZ <= CURRENT_TIMESTAMP - INTERVAL {HISTORY_DAYS} DAY"
            )
            if is_early:
                raise compilation(f"Cannot retrieve data from more than {HISTORY_DAYS} days ago.")


FAKESNOW_SYSTEM = {"SYSTEM$TYPEOF"}


def name_in(text: str) -> tuple[str, ...]:
    """Return the parts of the name that a string contains."""
    words = Words(text)
    parts = words.take_name()
    words.finish()
    return parts


def database_of(table: exp.TableFromRows) -> str | None:
    """Return the database X in TABLE(X.INFORMATION_SCHEMA.COPY_HISTORY(…)), or None if the call names no database."""
    dot = table.this
    if not isinstance(dot, exp.Dot) or not isinstance(dot.this, exp.Dot):
        return None
    identifier = dot.this.this
    return str(identifier.name if identifier.args.get("quoted") else identifier.name.upper())


def named_arguments(call: exp.Anonymous) -> dict[str, exp.Expr]:
    return {
        argument.this.name.upper(): argument.expression
        for argument in call.expressions
        if isinstance(argument, exp.Kwarg)
    }


def sns_policy(topic: str) -> dict[str, object]:
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "1",
                "Effect": "Allow",
                "Principal": {"AWS": USER_ARN},
                "Action": ["sns:Subscribe"],
                "Resource": [topic],
            }
        ],
    }


def instant(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
