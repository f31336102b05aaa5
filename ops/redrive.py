"""`milkrun redrive`: list, show, send again or delete the claim checks in the dead-letter queue."""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from cli.counts import count
from cli.deadline import started
from ops import terminal
from ops.reachable_stores import BUDGET_SECONDS, require

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.literals import QueueAttributeNameType
    from mypy_boto3_sqs.type_defs import MessageTypeDef

BATCH = 10
# The visibility timeout must be long enough to read all messages and to send them again. A message that is not deleted
# becomes visible again afterwards.
HIDDEN_SECONDS, MESSAGES_A_SECOND, MAX_HIDDEN_SECONDS = 60, 10, 43_200
# A long poll asks all of the queue's servers, so an empty response means that no message is visible. (Amazon SQS
# Developer Guide: "Amazon SQS short and long polling".)
LONG_POLL_SECONDS = 1
READERS = 16
# The error codes of ChangeMessageVisibility for a visible message: the documented one, and the one that SQS returns.
ALREADY_VISIBLE = ("MessageNotInflight", "InvalidParameterValue")


@dataclass(frozen=True)
class DeadLetter:
    """A message in the dead-letter queue. `key` is empty if the message is not a claim check."""

    body: str
    receipt_handle: str
    sent_at: datetime
    key: str
    lines: int
    bucket: str


def dead_letters(sqs: "SQSClient", queue_url: str) -> Iterator[DeadLetter]:
    """Yield all visible messages in a queue.

    Each message stays hidden for a minute, or longer in a long queue, unless it is deleted or released earlier.
    """
    seen: set[str] = set()
    hidden_seconds = hidden_for(waiting(sqs, queue_url))
    while True:
        answer = sqs.receive_message(
            QueueUrl=queue_url,
            MaxNumberOfMessages=BATCH,
            VisibilityTimeout=hidden_seconds,
            WaitTimeSeconds=LONG_POLL_SECONDS,
            MessageSystemAttributeNames=["SentTimestamp"],
        )
        fresh = [m for m in answer.get("Messages", ()) if m["MessageId"] not in seen]
        if not fresh:
            return
        for message in fresh:
            seen.add(message["MessageId"])
            yield _dead_letter(message)


def hidden_for(messages: int) -> int:
    """Return the visibility timeout, in seconds, with which a command reads a queue of this length."""
    return min(MAX_HIDDEN_SECONDS, HIDDEN_SECONDS + messages // MESSAGES_A_SECOND)


def _dead_letter(message: "MessageTypeDef") -> DeadLetter:
    sent_at = datetime.fromtimestamp(int(message["Attributes"]["SentTimestamp"]) / 1000, UTC)
    key, lines, bucket = "", 0, ""
    try:
        claim = json.loads(message["Body"])
        key, lines, bucket = str(claim["key"]), len(claim["lines"]), str(claim["bucket"])
    except (ValueError, KeyError, TypeError):
        pass  # not a claim check
    return DeadLetter(message["Body"], message["ReceiptHandle"], sent_at, key, lines, bucket)


def object_states(s3: "S3Client", letters: Sequence[DeadLetter]) -> list[str]:
    """Return, for each message, whether the object of its claim check is "stored", "gone" or "unknown".

    A claim check whose object is gone can never succeed. The state of a message that is not a claim check is
    "". A state is "unknown" if S3 returned an error other than 404, or no response in time.
    """
    states = ["unknown" if letter.key else "" for letter in letters]
    left = iter([n for n, letter in enumerate(letters) if letter.key])

    def read() -> None:
        for n in left:
            try:
                s3.head_object(Bucket=letters[n].bucket, Key=letters[n].key)
                states[n] = "stored"
            except s3.exceptions.ClientError as error:
                states[n] = "gone" if error.response["Error"]["Code"] == "404" else "unknown"

    wait([started(read) for _ in range(min(READERS, len(letters)))], BUDGET_SECONDS)
    return list(states)


def release(sqs: "SQSClient", queue_url: str, letter: DeadLetter) -> None:
    """Make a message visible again. Do nothing if it is visible already, because its visibility timeout has passed."""
    try:
        sqs.change_message_visibility(
            QueueUrl=queue_url, ReceiptHandle=letter.receipt_handle, VisibilityTimeout=0
        )
    except sqs.exceptions.ClientError as error:
        if error.response["Error"]["Code"].rpartition(".")[2] not in ALREADY_VISIBLE:
            raise


def send_again(sqs: "SQSClient", dead_letter_url: str, redrive_url: str, letter: DeadLetter) -> None:
    """Send a message to the redrive queue, then delete it from the dead-letter queue.

    In this order, an interruption may duplicate a message, but cannot lose it.
    """
    sqs.send_message(QueueUrl=redrive_url, MessageBody=letter.body)
    delete(sqs, dead_letter_url, letter)


def delete(sqs: "SQSClient", queue_url: str, letter: DeadLetter) -> None:
    sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=letter.receipt_handle)


OUT_OF_REACH: "Sequence[QueueAttributeNameType]" = (
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
)
"""The queue attributes that count the messages which cannot be received at the moment."""
EVERY_KIND: "Sequence[QueueAttributeNameType]" = ("ApproximateNumberOfMessages", *OUT_OF_REACH)


def waiting(sqs: "SQSClient", queue_url: str, names: Sequence["QueueAttributeNameType"] = EVERY_KIND) -> int:
    """Return the approximate number of messages in a queue, by default including those delayed or in flight."""
    found = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=names)["Attributes"]
    return sum(int(found.get(name, 0)) for name in names)


def command(
    context: typer.Context,
    *,
    send: Annotated[bool, typer.Option("--send", hidden=True)] = False,
    purge: Annotated[bool, typer.Option("--purge", hidden=True)] = False,
    yes: Annotated[bool, typer.Option("--yes", hidden=True)] = False,
    stage: terminal.Stage = "local",
    as_json: terminal.AsJson = False,
    wide: terminal.Wide = False,
) -> None:
    """List the claim checks in the dead-letter queue.

    Exit code 1: the queue is not empty.
    """
    if send and purge:
        raise typer.BadParameter("use --send or --purge, not both")
    outputs = terminal.outputs_of(context, stage)
    require(outputs, "SQS")
    sqs, dead = outputs.aws("sqs"), outputs.dead_letter_queue_url
    letters = list(terminal.counted(dead_letters(sqs, dead), "claim checks"))
    if purge and letters and not yes:
        try:
            typer.confirm(
                f"Delete {count(len(letters), 'claim check')}? The events stay in S3.", abort=True, err=True
            )
        except typer.Abort:
            for letter in letters:
                release(sqs, dead, letter)
            raise
    does: Callable[[DeadLetter], None]
    if send:
        done, does = "sent again", lambda letter: send_again(sqs, dead, outputs.redrive_queue_url, letter)
    elif purge:
        done, does = "deleted", lambda letter: delete(sqs, dead, letter)
    else:
        done, does = "waits", lambda letter: release(sqs, dead, letter)
    objects = object_states(outputs.aws("s3", attempts=1), letters)
    for letter in letters:
        does(letter)
    # An interrupted command leaves the messages hidden.
    hidden = 0 if letters else waiting(sqs, dead, OUT_OF_REACH)
    rows = [
        {
            "object_key": letter.key or letter.body[:200],
            "lines": letter.lines,
            "since": letter.sent_at,
            "object": state,
            "done": done,
        }
        for letter, state in zip(letters, objects, strict=True)
    ]
    if as_json:
        in_queue = waiting(sqs, outputs.redrive_queue_url)
        terminal.print_json({"dead_letters": rows, "waiting_in_redrive_queue": in_queue})
    else:
        in_queue = 0 if rows else waiting(sqs, outputs.redrive_queue_url)
        number = count(in_queue, "claim check")
        empty = f"no {'visible ' if hidden else ''}dead letters; {number} waiting in the redrive queue"
        terminal.show_rows(rows, as_json, title="Dead letters", wide=wide, empty=empty)
    if hidden:
        terminal.fail(
            f"{count(hidden, 'claim check')} hidden, because another command has read the queue: repeat this command "
            f"in {count(-(-hidden_for(hidden) // 60), 'minute')}"
        )
    if hidden or (letters and not (send or purge)):
        raise typer.Exit(1)


app = terminal.group()


@app.callback()
def dead_letters_of_a_stage() -> None:
    """List, show, send again or delete the claim checks in the dead-letter queue.

    Without a subcommand, `list` runs.
    """


app.command("list")(command)


@app.command()
def show(
    context: typer.Context, *, stage: terminal.Stage = "local", as_json: terminal.AsJson = False
) -> None:
    """Show the text of each claim check in the dead-letter queue."""
    outputs = terminal.outputs_of(context, stage)
    require(outputs, "SQS")
    sqs, dead = outputs.aws("sqs"), outputs.dead_letter_queue_url
    letters = list(terminal.counted(dead_letters(sqs, dead), "claim checks"))
    for letter in letters:
        release(sqs, dead, letter)
    terminal.show_rows([{"since": letter.sent_at, "claim_check": letter.body} for letter in letters], as_json)


@app.command()
def send(
    context: typer.Context, *, stage: terminal.Stage = "local", as_json: terminal.AsJson = False
) -> None:
    """Move all claim checks from the dead-letter queue back to the redrive queue."""
    command(context, send=True, stage=stage, as_json=as_json)


@app.command()
def purge(
    context: typer.Context,
    *,
    yes: terminal.Yes = False,
    stage: terminal.Stage = "local",
    as_json: terminal.AsJson = False,
) -> None:
    """Delete all claim checks in the dead-letter queue, after confirmation. The events stay in S3."""
    command(context, purge=True, yes=yes, stage=stage, as_json=as_json)
