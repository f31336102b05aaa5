"""The errors that a command of the local stack raises."""

from cli.refusal import Refusal


class StackError(Refusal):
    """A command of the local stack failed. The message is a single line with the cause and usually the next step."""


class LostStateError(StackError):
    """A process has died, and the data that it held only in memory is lost. The command's exit code is 1."""

    def __init__(self, part: str, left: str) -> None:
        lost = {
            "localstack": (
                "LocalStack has died; it held S3's objects, the stream, the visits and the queues"
            ),
            "kinesis": "LocalStack's Kinesis mock has died; it held the stream's records",
        }[part]
        super().__init__(
            (
                f"{lost} only in memory, so they are lost; {left}. This command deleted nothing. To delete the "
                "remaining data and start empty, run: milkrun up --discard"
            ),
            1,
        )
