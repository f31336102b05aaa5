"""What a person is told instead of a traceback."""


class StackError(Exception):
    """Its text is one line that says what is wrong and what to do."""
