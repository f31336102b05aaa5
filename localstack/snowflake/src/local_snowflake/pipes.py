"""Handle CREATE, ALTER, DROP, SHOW and DESC PIPE. Sources: Snowflake's pages with the same names."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from local_snowflake import plans
from local_snowflake.actor import Actor
from local_snowflake.authorize import Authority
from local_snowflake.catalog import Catalog, new_id
from local_snowflake.catalog_objects import Pipe
from local_snowflake.channel import Channels
from local_snowflake.errors import SnowflakeError, compilation, exists, missing
from local_snowflake.integrations import check_is_notification
from local_snowflake.loader import Loader, StagedFile
from local_snowflake.parse_copy import check_for_pipe, copy_of
from local_snowflake.results import SUCCEEDED, TEXT, TIME, Handlers, Result, status
from local_snowflake.show_clauses import alike, inside, take_describe, take_filter
from local_snowflake.snowpipe import Ingest
from local_snowflake.sql import Options, Scope, Words, actor_of, flag_of, text_of

REFRESH_WINDOW = timedelta(days=7)
STALE_PAUSE = timedelta(days=14)
PIPE_OPTIONS = {"AUTO_INGEST", "AWS_SNS_TOPIC", "INTEGRATION", "ERROR_INTEGRATION", "COMMENT"}


class Pipes:
    def __init__(
        self, catalog: Catalog, loader: Loader, channels: Channels, ingest: Ingest, authority: Authority
    ) -> None:
        self.catalog = catalog
        self.authority = authority
        self.loader = loader
        self.channels = channels
        self.ingest = ingest
        self.handlers: Handlers = {
            ("CREATE", "PIPE"): self.create_pipe,
            ("ALTER", "PIPE"): self.alter_pipe,
            ("DROP", "PIPE"): self.drop_pipe,
            ("SHOW", "PIPES"): self.show_pipes,
            ("DESC", "PIPE"): self.desc_pipe,
        }

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
        if self.catalog.find_pipe(name) and not replaces:
            if unless_exists:
                return status(f"{name.name} already exists, statement succeeded.")
            raise exists(str(name))
        copy = copy_of(definition, Scope(name.database, name.schema))
        check_for_pipe(copy)
        stage = self.catalog.stage(copy.stage)
        self.authority.load_by_pipe(actor_of(scope).role, copy, stage)
        plan = plans.plan_of(self.catalog, copy, stage, None, "SKIP_FILE")
        self._may_notify(options, scope)
        auto_ingest = flag_of(options, "AUTO_INGEST")
        topic = text_of(options, "AWS_SNS_TOPIC")
        channel = None
        if auto_ingest:
            channel = self.channels.open(topic)
        self.catalog.add_pipe(
            Pipe(
                new_id(),
                name,
                definition,
                auto_ingest,
                topic,
                channel.arn if channel else None,
                text_of(options, "INTEGRATION"),
                upper(text_of(options, "ERROR_INTEGRATION")),
                text_of(options, "COMMENT"),
                stage.stage_id,
                plan.location,
                None,
                self.catalog.clock(),
            )
        )
        if channel:  # after adding the pipe, because the message of a file that no pipe loads is deleted
            self.ingest.listen(channel)
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
            return self.refresh(pipe, options, actor_of(scope))
        if words.takes("SET"):
            options = words.take_options()
            words.finish()
            if not options:
                raise words.unexpected()
            self._may_notify(options, scope)
            return self.set_pipe(pipe, options)
        if words.takes("UNSET"):
            option = words.take_identifier()
            words.finish()
            if option not in ("COMMENT", "ERROR_INTEGRATION"):
                raise compilation(f"invalid property '{option}' for 'PIPE'", "001006", "42601")
            self.catalog.set_pipe(pipe.name, option.lower(), None)
            return SUCCEEDED
        raise words.unexpected()

    def _may_notify(self, options: Options, scope: Scope) -> None:
        if name := text_of(options, "ERROR_INTEGRATION"):
            self.authority.require(actor_of(scope), ("USAGE",), "INTEGRATION", name.upper())
            check_is_notification(self.catalog, name.upper())

    def set_pipe(self, pipe: Pipe, options: Options) -> Result:
        for option in options:
            if option not in ("PIPE_EXECUTION_PAUSED", "COMMENT", "ERROR_INTEGRATION"):
                raise compilation(f"invalid property '{option}' for 'PIPE'", "001006", "42601")
        texts = {option: text_of(options, option) for option in ("COMMENT", "ERROR_INTEGRATION")}
        if "PIPE_EXECUTION_PAUSED" in options:
            paused = flag_of(options, "PIPE_EXECUTION_PAUSED")
            if paused and not pipe.paused_on:
                self.catalog.set_pipe(pipe.name, "paused_on", self.catalog.clock())
            elif not paused and pipe.paused_on:
                if pipe.transferred:
                    raise SnowflakeError(
                        "003166",
                        "55000",
                        f"The owner of pipe {pipe.name} has changed. Resume it with SELECT "
                        f"SYSTEM$PIPE_FORCE_RESUME('{pipe.name}','ownership_transfer_check_override').",
                    )
                if is_stale(pipe, self.catalog.clock()):
                    raise SnowflakeError(
                        "003165",
                        "55000",
                        f"Pipe {pipe.name} is stale: it was paused for more than 14 days. "
                        "Resume it with SELECT SYSTEM$PIPE_FORCE_RESUME"
                        f"('{pipe.name}','staleness_check_override').",
                    )
                self.catalog.set_pipe(pipe.name, "paused_on", None)
        for option, value in texts.items():
            if value is not None:
                self.catalog.set_pipe(
                    pipe.name, option.lower(), value if option == "COMMENT" else upper(value)
                )
        return SUCCEEDED

    def refresh(self, pipe: Pipe, options: Options, actor: Actor) -> Result:
        """Queue the files of the last 7 days that the pipe's COPY reads, that match PREFIX and MODIFIED_AFTER, and that
        are in neither the pipe's nor the table's load history. Return one row for each queued file.
        """
        for option in options:
            if option not in ("PREFIX", "MODIFIED_AFTER"):
                raise compilation(f"invalid property '{option}'", "001006", "42601")
        try:
            plan = self.loader.plan(pipe)
        except plans.NotRunnable as reason:
            raise SnowflakeError(
                "003164", "55000", f"Pipe {pipe.name} cannot load files ({reason.state}): {reason.reason}"
            ) from None
        self.authority.load(actor, plan.copy, plan.stage)
        oldest = self.catalog.clock() - REFRESH_WINDOW
        if after := text_of(options, "MODIFIED_AFTER"):
            try:
                moment = datetime.fromisoformat(after)
            except ValueError:
                raise compilation(f"Timestamp '{after}' is not recognized", "100040", "22007") from None
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            # The clock of CURRENT_TIMESTAMP, which `PUT /clock` does not change.
            if moment < datetime.now(UTC) - REFRESH_WINDOW:
                raise compilation(
                    f"invalid value [{after}] for parameter 'MODIFIED_AFTER'", "001008", "42601"
                )
            oldest = max(oldest, moment)
        files = []
        prefix = plan.location.prefix + (text_of(options, "PREFIX") or "")
        for thing in self.loader.listed(plan.location.bucket, prefix):
            name = plan.location.file_name(plan.location.bucket, thing["Key"])
            if name is not None and thing["LastModified"] >= oldest:
                files.append(
                    StagedFile(plan.location.bucket, thing["Key"], name, thing["Size"], self.catalog.clock())
                )
        known = self.loader.loaded_by_pipe(plan, [file.file_name for file in files])
        self.catalog.create_histories(plan.target.database)
        with self.catalog.fakesnow.cursor() as duck:
            known |= self.loader.loaded_by_hand(duck, plan.target, plan.stage.url).keys()
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
        shown = [
            pipe
            for pipe in self.catalog.pipes()
            if alike(pipe.name.name, like)
            and inside(pipe.name, within)
            and self.authority.sees(actor_of(scope), "PIPE", str(pipe.name))
        ]
        return self._result(shown)

    def desc_pipe(self, words: Words, scope: Scope) -> Result:
        take_describe(words, "PIPE")
        pipe = self.catalog.pipe(scope.resolve(words.take_name()))
        words.finish()
        return self._result([pipe])

    def _result(self, pipes: list[Pipe]) -> Result:
        return pipes_result(pipes, self.state_of, self.authority.owner)

    def state_of(self, pipe: Pipe) -> tuple[str, str | None]:
        try:
            self.ingest.runnable(pipe)
        except plans.NotRunnable as reason:
            return reason.state, reason.reason
        return "RUNNING", None


def upper(name: str | None) -> str | None:
    return name.upper() if name else name


def is_stale(pipe: Pipe, now: datetime) -> bool:
    return pipe.auto_ingest and pipe.paused_on is not None and now - pipe.paused_on > STALE_PAUSE


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


def pipes_result(
    pipes: list[Pipe],
    state_of: Callable[[Pipe], tuple[str, str | None]],
    owner_of: Callable[[str, str], str],
) -> Result:
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
                owner_of("PIPE", str(pipe.name)),
                pipe.topic or pipe.channel,
                pipe.comment or "",
                pipe.integration,
                pipe.location.pattern,
                pipe.error_integration,
                "ROLE",
                None if state in ("RUNNING", "PAUSED") else reason,
                "STAGE",
            )
        )
    return Result(PIPE_COLUMNS, rows)
