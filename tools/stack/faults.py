"""The error of the local stack."""

from snowpipe.refusal import Refusal


class StackError(Refusal):
    """The stack could not do what was asked. The text is one line that says what is wrong and what to do."""
