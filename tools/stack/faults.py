"""The error of the local stack."""

from snowpipe.refusal import Refusal


class StackError(Refusal):
    """The stack could not do what was asked. The text is one line that says what is wrong and what to do."""


class LostStateError(StackError):
    """A process has died, and what only its memory held cannot be had back. Exit code 1."""

    def __init__(self, part: str, left: str, folder: str) -> None:
        lost = {
            "localstack": "LocalStack has died, and with it S3's objects, the stream, the visits and the queues",
            "kinesis": "LocalStack's Kinesis mock has died, and with it the records of the stream",
        }[part]
        super().__init__(
            f"{lost}, which only its memory held; {left}. Nothing of {folder} was touched. To delete the rest too and"
            " start anew: milkrun up --discard",
            1,
        )
