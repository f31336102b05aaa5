"""Determine which stores of a stage respond, so that a command can query them and report the unreachable stores."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from contract.events import GEOFENCE_KINDS
from ops import terminal
from ops.outputs import Outputs
from ops.read_stores import geofence_kinds
from snowpipe.archive import Archive
from snowpipe.command_errors import one_line
from snowpipe.deadline import NoAnswerError, within
from snowpipe.refusal import Refusal
from snowpipe.warehouse import Warehouse

BUDGET_SECONDS = 5.0
# What is unknown if a store does not answer.
MEANINGS = {
    "Snowflake": "whether it is loaded is unknown; the archive has every accepted event",
    "S3": "whether it is archived is unknown; only RAW was searched",
    "Kinesis": "whether it was published is unknown",
    "DynamoDB": "whether the consumer has it is unknown",
    "CloudWatch Logs": "when it was answered and consumed is unknown",
    "Lambda": "the stage's geofence event types are unknown; Radar's are assumed",
}


_ASK: Mapping[str, tuple[str, Callable[[Any, Outputs], object]]] = {
    "S3": ("s3", lambda client, of: client.head_bucket(Bucket=of.bucket)),
    "Kinesis": ("kinesis", lambda client, of: client.describe_stream_summary(StreamName=of.stream)),
    "DynamoDB": ("dynamodb", lambda client, of: client.describe_table(TableName=of.visits_table)),
    "CloudWatch Logs": ("logs", lambda client, _: client.describe_log_groups(limit=1)),
    "Lambda": ("lambda", lambda client, _: client.list_functions(MaxItems=1)),
    "SQS": ("sqs", lambda client, of: client.get_queue_attributes(QueueUrl=of.dead_letter_queue_url)),
}
ALL = ("S3", "Kinesis", "DynamoDB", "CloudWatch Logs", "Lambda")


def unreachable(outputs: Outputs, names: Sequence[str] = ALL) -> dict[str, str]:
    """Query AWS services concurrently; return the reason for each that does not answer in time."""
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
    """Raise Refusal if a service that the command needs does not answer in time.

    Without this check a silent service delays a command for minutes: five attempts of 30 seconds each.
    """
    if unasked := unreachable(outputs, names):
        reasons = "; ".join(f"{name}: {why}" for name, why in unasked.items())
        where = "S3 unreachable" if "S3" in unasked else "AWS unreachable"
        raise Refusal(f'{reasons}. Nothing was read or changed. See docs/runbook.md, "{where}"')


def with_or_without_warehouse[T](
    outputs: Outputs, unasked: dict[str, str], ask: Callable[[Warehouse | None], T]
) -> T:
    """Return what `ask` finds with a session of Snowflake.

    If Snowflake does not answer, at first or at any later statement, note the reason in `unasked` and return
    what `ask` finds without it.
    """
    try:
        with outputs.warehouse() as warehouse:
            return ask(warehouse)
    except NoAnswerError as error:
        unasked["Snowflake"] = str(error)
    return ask(None)


class ReachableStores:
    """The stores of one stage that answer. `unasked` names the others, each with the reason."""

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
    """Print a line for each store that could not be queried."""
    for name, why in unasked.items():
        terminal.fail(f"not asked: {name} ({why}); {MEANINGS[name]}")
