"""The exception that ends a command with a message for the user."""


class Refusal(Exception):
    """A command failed or was refused; the message is one line for the user.

    `exit_code` is 2 if the arguments are invalid or the result could not be determined (for lack of a connection, a
    privilege or an object), and 1 if the command found a problem.
    """

    def __init__(self, line: str, exit_code: int = 2) -> None:
        super().__init__(line)
        self.exit_code = exit_code
