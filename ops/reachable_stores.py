"""Find out which stores of a stage answer, so that a command can query those and report the others."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from cli.command_errors import one_line
from cli.deadline import NoAnswerError, within
from cli.refusal import Refusal
from contract.geofence_event_types import GEOFENCE_KINDS
from ops import terminal
from ops.read_stores import geofence_kinds
from ops.stage_outputs import Client, Outputs
from snowpipe.archive import Archive
from snowpipe.warehouse import Warehouse

BUDGET_SECONDS = 5.0
# What is unknown if a store does not answer.
MEANINGS = {
    "Snowflake": "it is unknown which events are loaded; the archive contains every accepted event",
    "S3": "it is unknown what is archived; only RAW was searched",
    "Kinesis": "it is unknown what was published",
    "DynamoDB": "it is unknown what the consumer has processed",
    "CloudWatch Logs": "it is unknown when requests were answered and events were consumed",
    "Lambda": "the geofence event types of the stage are unknown; those of Radar are assumed",
}


_ASK: Mapping[str, tuple[str, Callable[[Client, Outputs], object]]] = {
    "S3": ("s3", lambda client, of: client.head_bucket(Bucket=of.bucket)),
    "Kinesis": ("kinesis", lambda client, of: client.describe_stream_summary(StreamName=of.stream)),
    "DynamoDB": ("dynamodb", lambda client, of: client.describe_table(TableName=of.visits_table)),
    "CloudWatch Logs": ("logs", lambda client, _: client.describe_log_groups(limit=1)),
    "Lambda": ("lambda", lambda client, _: client.list_functions(MaxItems=1)),
    "SQS": ("sqs", lambda client, of: client.get_queue_attributes(QueueUrl=of.dead_letter_queue_url)),
}
ALL = ("S3", "Kinesis", "DynamoDB", "CloudWatch Logs", "Lambda")


def unreachable(outputs: Outputs, names: Sequence[str] = ALL) -> dict[str, str]:
    """Call AWS services concurrently; return those that return an error or do not answer in time, with the reason."""
    # boto3 may take seconds to read its models on a busy machine, so the budget starts after that.
    clients = {name: outputs.aws(_ASK[name][0], attempts=1) for name in names}

    def problem(name: str) -> str:
        try:
            within(BUDGET_SECONDS, lambda: _ASK[name][1](clients[name], outputs), name)
        except (Refusal, *terminal.AWS_ERRORS) as error:
            return one_line(str(error))
        return ""

    with ThreadPoolExecutor(len(names)) as asking:
        return {name: said for name, said in zip(names, asking.map(problem, names), strict=True) if said}


def require(outputs: Outputs, *names: str) -> None:
    """Raise Refusal if a service that a command needs returns an error or does not answer in time.

    Without this check, an unresponsive service would delay the command for minutes: five attempts of 30 seconds.
    """
    if unasked := unreachable(outputs, names):
        reasons = "; ".join(f"{name}: {why}" for name, why in unasked.items())
        where = "S3 unreachable" if "S3" in unasked else "AWS unreachable"
        raise Refusal(f'{reasons}. Nothing was read or changed. See docs/runbook.md, "{where}"')


def with_or_without_warehouse[T](
    outputs: Outputs, unasked: dict[str, str], ask: Callable[[Warehouse | None], T]
) -> T:
    """Call `ask` with a Snowflake session and return its result.

    If Snowflake does not answer the login or a later statement, add the reason to `unasked` and call `ask` with None.
    """
    try:
        with outputs.warehouse() as warehouse:
            return ask(warehouse)
    except NoAnswerError as error:
        unasked["Snowflake"] = str(error)
    return ask(None)


class ReachableStores:
    """Access to those stores of a stage that answer. `unasked` maps each store that does not answer to the reason."""

    def __init__(
        self,
        outputs: Outputs,
        stage: str,
        warehouse: Warehouse | None,
        unasked: Mapping[str, str] | None = None,
    ) -> None:
        self._outputs = outputs
        self._stage = stage
        self._warehouse = warehouse
        self._unasked = dict(unasked or {})
        self._s3 = outputs.aws("s3")
        self.archive = Archive(self._s3, outputs.bucket)
        self.kinds = GEOFENCE_KINDS if "Lambda" in self._unasked else geofence_kinds(outputs, stage)


def tell(unasked: Mapping[str, str]) -> None:
    """Print a line for each store that did not answer."""
    for name, why in unasked.items():
        terminal.fail(f"not queried: {name} ({why}); {MEANINGS[name]}")
