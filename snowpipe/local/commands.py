"""The statements that the local Snowflake answers itself; all others go on to fakesnow.

Each handler reads its statement to the end before it changes anything.
"""

import fnmatch
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from snowpipe.local import plans
from snowpipe.local.catalog import Catalog, Integration, Pipe, Stage, new_id
from snowpipe.local.channel import Channels
from snowpipe.local.copying import check_for_pipe, copy_of
from snowpipe.local.errors import SnowflakeError, compilation, exists, missing, unsupported
from snowpipe.local.ingest import Ingest
from snowpipe.local.loader import Loader, StagedFile
from snowpipe.local.results import SUCCEEDED, TEXT, TIME, Result, status
from snowpipe.local.sql import Name, Options, Scope, Value, Words, flag_of, text_of

log = structlog.get_logger()

REFRESH_WINDOW = timedelta(days=7)
STALE_PAUSE = timedelta(days=14)
USER_ARN = "arn:aws:iam::000000000000:user/snowflake"

type Handler = Callable[[Words, Scope], Result | str | None]


class Commands:
    def __init__(self, catalog: Catalog, loader: Loader, channels: Channels, ingest: Ingest) -> None:
        self.catalog = catalog
        self.loader = loader
        self.channels = channels
        self.ingest = ingest
        self.handlers: dict[tuple[str, ...], Handler] = {
            ("CREATE", "PIPE"): self.create_pipe,
            ("ALTER", "PIPE"): self.alter_pipe,
            ("DROP", "PIPE"): self.drop_pipe,
            ("SHOW", "PIPES"): self.show_pipes,
            ("DESC", "PIPE"): self.desc_pipe,
            ("CREATE", "STORAGE", "INTEGRATION"): self.create_integration,
            ("ALTER", "STORAGE", "INTEGRATION"): self.alter_integration,
            ("ALTER", "INTEGRATION"): self.alter_integration,
            ("DROP", "STORAGE", "INTEGRATION"): self.drop_integration,
            ("DROP", "INTEGRATION"): self.drop_integration,
            ("DESC", "STORAGE", "INTEGRATION"): self.desc_integration,
            ("DESC", "INTEGRATION"): self.desc_integration,
            ("SHOW", "STORAGE", "INTEGRATIONS"): self.show_integrations,
            ("SHOW", "INTEGRATIONS"): self.show_integrations,
            ("CREATE", "STAGE"): self.create_stage,
            ("DROP", "STAGE"): self.drop_stage,
            ("DESC", "STAGE"): self.desc_stage,
        }
        for words in ACCEPTED_NOT_ENFORCED:
            self.handlers[words] = self.accept

    def __call__(self, sql: str, scope: Scope) -> Result | str | None:
        """A result, or other SQL for fakesnow to run in its place, or None: run it as it is."""
        words = Words(sql)
        if any(token.text == ";" for token in words.tokens):
            raise SnowflakeError(
                "000008", "0A000", "Actual statement count 2 did not match the desired statement count 1."
            )
        handler = self.handlers.get(leading(words))
        if handler:
            return handler(words, scope)
        if words.start(3) == ("CREATE", "SCHEMA") or words.start(2) == ("CREATE", "SCHEMA"):
            return self.create_schema(words)
        return None

    # ---- pipes

    def create_pipe(self, words: Words, scope: Scope) -> Result:
        words.take("CREATE")
        replaces = words.takes("OR", "REPLACE")
        words.take("PIPE")
        unless_exists = words.takes("IF", "NOT", "EXISTS")
        name = scope.resolve(words.take_name())
        options = words.take_options(until=["AS"])
        words.take("AS")
        definition = words.rest()
        for option in options:
            if option not in PIPE_OPTIONS:
                raise compilation(f"invalid property '{option}' for 'PIPE'", "001006", "42601")
        if replaces and unless_exists:
            raise compilation("options IF NOT EXISTS and OR REPLACE are incompatible.")
        if self.catalog.find_pipe(name) and not replaces:
            if unless_exists:
                return status(f"{name.name} already exists, statement succeeded.")
            raise exists(str(name))
        if name.database not in self.catalog.databases():
            raise missing("Database", name.database)
        copy = copy_of(definition, Scope(name.database, name.schema))
        check_for_pipe(copy)
        stage = self.catalog.stage(copy.stage)
        plans.plan_of(self.catalog, copy, stage, None, "SKIP_FILE")
        auto_ingest = flag_of(options, "AUTO_INGEST")
        topic = text_of(options, "AWS_SNS_TOPIC")
        channel = None
        if auto_ingest:
            channel = self.channels.open(topic)
            self.ingest.listen(channel)
        self.catalog.add_pipe(
            Pipe(
                new_id(),
                name,
                definition,
                auto_ingest,
                topic,
                channel.arn if channel else None,
                text_of(options, "INTEGRATION"),
                text_of(options, "ERROR_INTEGRATION"),
                text_of(options, "COMMENT"),
                stage.stage_id,
                None,
                self.catalog.clock(),
            )
        )
        return status(f"Pipe {name.name} successfully created.")

    def alter_pipe(self, words: Words, scope: Scope) -> Result:
        words.take("ALTER", "PIPE")
        if_exists = words.takes("IF", "EXISTS")
        name = scope.resolve(words.take_name())
        if if_exists and not self.catalog.find_pipe(name):
            return SUCCEEDED
        pipe = self.catalog.pipe(name)
        if words.takes("REFRESH"):
            options = words.take_options()
            words.finish()
            return self.refresh(pipe, options)
        if words.takes("SET"):
            options = words.take_options()
            words.finish()
            return self.set_pipe(pipe, options)
        raise words.unexpected()

    def set_pipe(self, pipe: Pipe, options: Options) -> Result:
        for option in options:
            if option not in ("PIPE_EXECUTION_PAUSED", "COMMENT", "ERROR_INTEGRATION"):
                raise compilation(f"invalid property '{option}' for 'PIPE'", "001006", "42601")
        if "PIPE_EXECUTION_PAUSED" in options:
            paused = flag_of(options, "PIPE_EXECUTION_PAUSED")
            if paused and not pipe.paused_on:
                self.catalog.set_pipe(pipe.name, "paused_on", self.catalog.clock())
            elif not paused and pipe.paused_on:
                if self.catalog.clock() - pipe.paused_on > STALE_PAUSE:
                    raise SnowflakeError(
                        "003165",
                        "55000",
                        f"Pipe {pipe.name} is stale: it was paused for more than 14 days. "
                        "Resume it with SELECT SYSTEM$PIPE_FORCE_RESUME"
                        f"('{pipe.name}','staleness_check_override').",
                    )
                self.catalog.set_pipe(pipe.name, "paused_on", None)
        for option in ("COMMENT", "ERROR_INTEGRATION"):
            if option in options:
                self.catalog.set_pipe(pipe.name, option.lower(), text_of(options, option))
        return SUCCEEDED

    def refresh(self, pipe: Pipe, options: Options) -> Result:
        """Queues the stage's files of the last 7 days that neither history knows."""
        for option in options:
            if option not in ("PREFIX", "MODIFIED_AFTER"):
                raise compilation(f"invalid property '{option}'", "001006", "42601")
        plan = self.loader.plan(pipe)
        oldest = self.catalog.clock() - REFRESH_WINDOW
        if after := text_of(options, "MODIFIED_AFTER"):
            try:
                moment = datetime.fromisoformat(after)
            except ValueError:
                raise compilation(f"Timestamp '{after}' is not recognized", "100040", "22007") from None
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            oldest = max(oldest, moment)
        files = []
        pages = self.loader.s3.get_paginator("list_objects_v2").paginate(
            Bucket=plan.bucket, Prefix=plan.prefix + (text_of(options, "PREFIX") or "")
        )
        for page in pages:
            for thing in page.get("Contents", ()):
                name = plan.file_name(plan.bucket, thing["Key"])
                if name is not None and thing["LastModified"] >= oldest:
                    files.append(
                        StagedFile(plan.bucket, thing["Key"], name, thing["Size"], self.catalog.clock())
                    )
        known = self.loader.loaded_by_pipe(plan, [file.file_name for file in files])
        known |= self.loader.loaded_by_hand(plan.target, plan.stage.url).keys()
        fresh = [file for file in files if file.file_name not in known]
        if fresh:
            self.ingest.put_waiting(pipe, fresh)
        return Result({"File": TEXT, "Status": TEXT}, [(file.file_name, "SENT") for file in fresh])

    def drop_pipe(self, words: Words, scope: Scope) -> Result:
        words.take("DROP", "PIPE")
        if_exists = words.takes("IF", "EXISTS")
        name = scope.resolve(words.take_name())
        words.finish()
        if self.catalog.find_pipe(name):
            self.catalog.drop_pipe(name)
        elif if_exists:
            return status(f"Drop statement executed successfully ({name.name} already dropped).")
        else:
            raise missing("Pipe", name)
        return status(f"{name.name} successfully dropped.")

    def show_pipes(self, words: Words, scope: Scope) -> Result:
        words.take("SHOW", "PIPES")
        like, within = take_filter(words, scope)
        return pipes_result(
            [p for p in self.catalog.pipes() if alike(p.name.name, like) and inside(p.name, within)],
            self.state_of,
        )

    def desc_pipe(self, words: Words, scope: Scope) -> Result:
        take_describe(words, "PIPE")
        pipe = self.catalog.pipe(scope.resolve(words.take_name()))
        words.finish()
        return pipes_result([pipe], self.state_of)

    def state_of(self, pipe: Pipe) -> tuple[str, str | None]:
        try:
            self.ingest.runnable(pipe)
        except plans.NotRunnable as reason:
            return reason.state, reason.reason
        return "RUNNING", None

    # ---- storage integrations

    def create_integration(self, words: Words, scope: Scope) -> Result:
        del scope
        words.take("CREATE")
        replaces = words.takes("OR", "REPLACE")
        words.take("STORAGE", "INTEGRATION")
        unless_exists = words.takes("IF", "NOT", "EXISTS")
        name = words.take_identifier()
        options = words.take_options()
        words.finish()
        for required in ("TYPE", "STORAGE_PROVIDER", "ENABLED", "STORAGE_ALLOWED_LOCATIONS"):
            if required not in options:
                raise compilation(f"missing property '{required}' for 'INTEGRATION'", "001007", "42601")
        if str(options["STORAGE_PROVIDER"]).upper() != "S3":
            raise unsupported(f"STORAGE_PROVIDER = {options['STORAGE_PROVIDER']}; S3 is")
        if self.catalog.find_integration(name) and not replaces:
            if unless_exists:
                return status(f"{name} already exists, statement succeeded.")
            raise exists(name)
        integration_id = new_id()
        # An own external id stays; without one each creation makes a new one, and the role's trust is broken.
        external_id = f"{self.catalog.account}_SFCRole=2_{integration_id[:12]}="
        self.catalog.put_integration(
            Integration(
                integration_id,
                name,
                {"STORAGE_AWS_EXTERNAL_ID": external_id, **options},
                self.catalog.clock(),
            )
        )
        return status(f"Integration {name} successfully created.")

    def alter_integration(self, words: Words, scope: Scope) -> Result:
        del scope
        words.take("ALTER")
        words.takes("STORAGE")
        words.take("INTEGRATION")
        if_exists = words.takes("IF", "EXISTS")
        name = words.take_identifier()
        words.take("SET")
        options = words.take_options()
        words.finish()
        found = self.catalog.find_integration(name)
        if found is None:
            if if_exists:
                return SUCCEEDED
            raise missing("Integration", name)
        self.catalog.put_integration(found._replace(options={**found.options, **options}))
        return SUCCEEDED

    def drop_integration(self, words: Words, scope: Scope) -> Result:
        del scope
        words.take("DROP")
        words.takes("STORAGE")
        words.take("INTEGRATION")
        if_exists = words.takes("IF", "EXISTS")
        name = words.take_identifier()
        words.finish()
        if self.catalog.find_integration(name):
            self.catalog.drop_integration(name)
        elif not if_exists:
            raise missing("Integration", name)
        return status(f"{name} successfully dropped.")

    def desc_integration(self, words: Words, scope: Scope) -> Result:
        del scope
        words.at = 1
        words.takes("STORAGE")
        words.take("INTEGRATION")
        integration = self.catalog.integration(words.take_identifier())
        words.finish()
        options = {
            "ENABLED": True,
            "STORAGE_PROVIDER": "S3",
            "STORAGE_ALLOWED_LOCATIONS": (),
            "STORAGE_BLOCKED_LOCATIONS": (),
            "STORAGE_AWS_IAM_USER_ARN": USER_ARN,
            "STORAGE_AWS_ROLE_ARN": None,
            "STORAGE_AWS_EXTERNAL_ID": None,
            "COMMENT": "",
            **integration.options,
        }
        rows = [(key, *property_of(value)) for key, value in options.items() if key != "TYPE"]
        return Result(PROPERTIES, rows)

    def show_integrations(self, words: Words, scope: Scope) -> Result:
        words.take("SHOW")
        words.takes("STORAGE")
        words.take("INTEGRATIONS")
        like, _ = take_filter(words, scope)
        rows = [
            (
                found.name,
                str(found.options["TYPE"]),
                "STORAGE",
                str(found.options["ENABLED"]).lower(),
                found.options.get("COMMENT"),
                found.created_on,
            )
            for found in self.catalog.integrations()
            if alike(found.name, like)
        ]
        columns = dict.fromkeys(("name", "type", "category", "enabled", "comment"), TEXT)
        return Result({**columns, "created_on": TIME}, rows)

    # ---- stages

    def create_stage(self, words: Words, scope: Scope) -> Result | None:
        words.take("CREATE")
        replaces = words.takes("OR", "REPLACE")
        temporary = words.takes("TEMPORARY") or words.takes("TEMP")
        words.take("STAGE")
        unless_exists = words.takes("IF", "NOT", "EXISTS")
        name = scope.resolve(words.take_name())
        options = words.take_options()
        words.finish()
        url = text_of(options, "URL") or ""
        if not url:
            self.note_internal_stage(name, options, unless_exists and not replaces)
            return None
        if temporary:
            raise unsupported("CREATE TEMPORARY STAGE with a URL")
        if not url.startswith("s3://"):
            raise unsupported(f"a stage on '{url}'; s3:// is")
        for option in options:
            if option not in STAGE_OPTIONS:
                raise unsupported(f"stage option {option}")
        if self.catalog.find_stage(name) and not replaces:
            if unless_exists:
                return status(f"{name.name} already exists, statement succeeded.")
            raise exists(str(name))
        self.catalog.put_stage(self.stage_of(new_id(), name, url, options), text_of(options, "COMMENT") or "")
        return status(f"Stage area {name.name} successfully created.")

    def stage_of(self, stage_id: str, name: Name, url: str, options: Options) -> Stage:
        integration_name = text_of(options, "STORAGE_INTEGRATION")
        integration = self.catalog.integration(integration_name.upper()) if integration_name else None
        if integration:
            check_location(integration, url)
        formats = format_of(options.get("FILE_FORMAT"))
        self.catalog.file_format(formats, name)
        return Stage(
            stage_id,
            name,
            url,
            formats,
            integration.name if integration else None,
            integration.integration_id if integration else None,
        )

    def note_internal_stage(self, name: Name, options: Options, unless_exists: bool) -> None:
        if unless_exists and self.catalog.find_stage(name):
            return
        formats = format_of(options.get("FILE_FORMAT"))
        self.catalog.note_stage(Stage(new_id(), name, "", formats, None, None))

    def drop_stage(self, words: Words, scope: Scope) -> Result:
        words.take("DROP", "STAGE")
        if_exists = words.takes("IF", "EXISTS")
        name = scope.resolve(words.take_name())
        words.finish()
        if self.catalog.find_stage(name):
            self.catalog.drop_stage(name)
        elif not if_exists:
            raise missing("Stage", name)
        return status(f"{name.name} successfully dropped.")

    def desc_stage(self, words: Words, scope: Scope) -> Result:
        take_describe(words, "STAGE")
        stage = self.catalog.stage(scope.resolve(words.take_name()))
        words.finish()
        rows = [("STAGE_FILE_FORMAT", key, *property_of(value)) for key, value in stage.file_format.items()]
        rows.append(("STAGE_LOCATION", "URL", *property_of(json.dumps([stage.url]))))
        if stage.integration:
            rows.append(("STAGE_INTEGRATION", "STORAGE_INTEGRATION", *property_of(stage.integration)))
        return Result({"parent_property": TEXT, **PROPERTIES}, rows)

    # ---- accepted, recorded, not enforced

    def accept(self, words: Words, scope: Scope) -> Result:
        del scope
        log.info("statement_accepted_not_enforced", statement=" ".join(words.start(6)))
        return SUCCEEDED

    def create_schema(self, words: Words) -> str | None:
        """fakesnow has no WITH MANAGED ACCESS; grants are not enforced anyway."""
        for at in range(len(words.tokens) - 2):
            words.at = at
            if words.takes("WITH", "MANAGED", "ACCESS"):
                log.info("statement_accepted_not_enforced", statement="WITH MANAGED ACCESS")
                first, last = words.tokens[at], words.tokens[at + 2]
                return words.sql[: first.start] + words.sql[last.end + 1 :]
        return None


ACCEPTED_NOT_ENFORCED = [
    ("GRANT",),
    ("REVOKE",),
    *(
        (verb, *kind)
        for verb in ("CREATE", "ALTER", "DROP")
        for kind in (
            ("ROLE",),
            ("WAREHOUSE",),
            ("RESOURCE", "MONITOR"),
            ("NETWORK", "POLICY"),
            ("DATABASE", "ROLE"),
        )
    ),
    ("ALTER", "USER"),
    ("USE", "ROLE"),
    ("USE", "WAREHOUSE"),
    ("USE", "SECONDARY"),
]
PIPE_OPTIONS = {"AUTO_INGEST", "AWS_SNS_TOPIC", "INTEGRATION", "ERROR_INTEGRATION", "COMMENT"}
STAGE_OPTIONS = {"URL", "STORAGE_INTEGRATION", "FILE_FORMAT", "COMMENT", "DIRECTORY"}
PROPERTIES = {
    "property": TEXT,
    "property_type": TEXT,
    "property_value": TEXT,
    "property_default": TEXT,
}
FILLERS = (("OR", "REPLACE"), ("IF", "NOT", "EXISTS"), ("TEMPORARY",), ("TEMP",), ("TERSE",))


def leading(words: Words) -> tuple[str, ...]:
    """The words that name a statement: CREATE OR REPLACE TEMP STAGE is CREATE STAGE."""
    start = list(words.start(8))
    if not start:
        return ()
    verb = "DESC" if start[0] == "DESCRIBE" else start[0]
    if verb in ("GRANT", "REVOKE"):
        return (verb,)
    rest = start[1:]
    for filler in FILLERS:
        if tuple(rest[: len(filler)]) == filler:
            rest = rest[len(filler) :]
    if rest[:1] in (["STORAGE"], ["RESOURCE"], ["NETWORK"]) or rest[:2] == ["DATABASE", "ROLE"]:
        return (verb, *rest[:2])
    return (verb, *rest[:1])


def take_describe(words: Words, kind: str) -> None:
    if not words.takes("DESC"):
        words.take("DESCRIBE")
    words.take(kind)


def take_filter(words: Words, scope: Scope) -> tuple[str | None, tuple[str, ...]]:
    """LIKE 'pattern' and IN DATABASE|SCHEMA name, of a SHOW statement."""
    like, within = None, tuple(part for part in (scope.database, scope.schema) if part)
    if words.takes("LIKE"):
        like = words.take_string()
    if words.takes("IN"):
        if words.takes("ACCOUNT"):
            within = ()
        else:
            kind = "SCHEMA" if words.takes("SCHEMA") else "DATABASE" if words.takes("DATABASE") else None
            within = words.take_name() if not words.done else within[: 1 if kind == "DATABASE" else 2]
            if kind != "DATABASE" and len(within) == 1 and scope.database:
                within = (scope.database, *within)
    words.finish()
    return like, within


def alike(name: str, like: str | None) -> bool:
    """SHOW … LIKE ignores case."""
    if like is None:
        return True
    pattern = like.replace("[", "[[]").replace("*", "[*]").replace("?", "[?]")
    pattern = pattern.replace("%", "*").replace("_", "?").replace("\\?", "_")
    return fnmatch.fnmatchcase(name.upper(), pattern.upper())


def inside(name: Name, within: tuple[str, ...]) -> bool:
    return name[: len(within)] == within


def format_of(value: Value | None) -> Options:
    if value is None:
        return {}
    if isinstance(value, str):
        return {"FORMAT_NAME": value}
    if not isinstance(value, dict):
        raise compilation(f"invalid value [{value}] for parameter 'FILE_FORMAT'", "001008", "42601")
    return value


def check_location(integration: Integration, url: str) -> None:
    allowed = integration.options["STORAGE_ALLOWED_LOCATIONS"]
    blocked = integration.options.get("STORAGE_BLOCKED_LOCATIONS", ())
    if not any(place == "*" or url.startswith(place) for place in allowed) or any(
        url.startswith(place) for place in blocked
    ):
        raise compilation(
            f"Location '{url}' is not allowed by integration '{integration.name}'. "
            "Please use DESC INTEGRATION to check out allowed and blocked locations.",
            "003134",
            "42601",
        )


def property_of(value: Any) -> tuple[str, str, str]:
    if isinstance(value, bool):
        return "Boolean", str(value).lower(), ""
    if isinstance(value, list | tuple):
        return "List", ",".join(str(element) for element in value), "[]"
    return "String", "" if value is None else str(value), ""


PIPE_COLUMNS = {
    "created_on": TIME,
    **dict.fromkeys(
        (
            "name",
            "database_name",
            "schema_name",
            "definition",
            "owner",
            "notification_channel",
            "comment",
            "integration",
            "pattern",
            "error_integration",
            "owner_role_type",
            "invalid_reason",
            "kind",
        ),
        TEXT,
    ),
}


def pipes_result(pipes: list[Pipe], state_of: Callable[[Pipe], tuple[str, str | None]]) -> Result:
    rows = []
    for pipe in pipes:
        state, reason = state_of(pipe)
        rows.append(
            (
                pipe.created_on,
                pipe.name.name,
                pipe.name.database,
                pipe.name.schema,
                pipe.definition,
                "SYSADMIN",
                pipe.topic or pipe.channel,
                pipe.comment or "",
                pipe.integration,
                None,
                pipe.error_integration,
                "ROLE",
                None if state in ("RUNNING", "PAUSED") else reason,
                "STAGE",
            )
        )
    return Result(PIPE_COLUMNS, rows)
