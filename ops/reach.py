"""Find out which stores of a stage answer, so that a command can use those and name the others."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

from ops import terminal
from ops.outputs import Outputs
from snowpipe.commandline import one_line
from snowpipe.refusal import Refusal
from snowpipe.warehouse import Warehouse
from snowpipe.within import within

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


def unreachable(outputs: Outputs, budget_seconds: float = BUDGET_SECONDS) -> dict[str, str]:
    """Ask AWS's stores concurrently, each within the budget; return the reason for each that did not answer."""

    # Create clients before the timeout starts: on a busy machine boto3 takes seconds to load its models.
    clients = {
        name: outputs.aws(name, attempts=1) for name in ("s3", "kinesis", "dynamodb", "logs", "lambda")
    }

    def aws(service: str) -> Any:
        return clients[service]

    checks: Mapping[str, Callable[[], object]] = {
        "S3": lambda: aws("s3").head_bucket(Bucket=outputs.bucket),
        "Kinesis": lambda: aws("kinesis").describe_stream_summary(StreamName=outputs.stream),
        "DynamoDB": lambda: aws("dynamodb").describe_table(TableName=outputs.visits_table),
        "CloudWatch Logs": lambda: aws("logs").describe_log_groups(limit=1),
        "Lambda": lambda: aws("lambda").list_functions(MaxItems=1),
    }

    def why(name: str) -> str:
        try:
            within(budget_seconds, checks[name], name)
        except (Refusal, *terminal.AWS_ERRORS) as error:
            return one_line(str(error))
        return ""

    with ThreadPoolExecutor(len(checks)) as asking:
        return {name: said for name, said in zip(checks, asking.map(why, checks), strict=True) if said}


@contextmanager
def warehouse_or_none(outputs: Outputs, unasked: dict[str, str]) -> Iterator[Warehouse | None]:
    """Yield a session, or None if Snowflake cannot be used; `unasked` then has the reason."""
    with ExitStack() as until_the_end:
        try:
            warehouse: Warehouse | None = until_the_end.enter_context(outputs.warehouse())
        except Refusal as error:
            unasked["Snowflake"], warehouse = str(error), None
        yield warehouse


def tell(unasked: Mapping[str, str]) -> None:
    """Print a line for each store that was not asked."""
    for name, why in unasked.items():
        terminal.fail(f"not asked: {name} ({why}); {MEANINGS[name]}")
