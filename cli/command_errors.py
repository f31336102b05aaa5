"""Turn a command's errors into one line on stderr and an exit code; used by every entry point."""

import os
import traceback
from collections.abc import Callable, Mapping, Sequence

import typer

from aws.errors import PermanentError, RetryableError
from cli.refusal import Refusal

COULD_NOT_LOOK = 2
CLOSED_PIPE = 141  # the exit code that a shell reports for a program that SIGPIPE ended
TRACEBACK = "MILKRUN_TRACEBACK"


def run(
    app: typer.Typer,
    arguments: Sequence[str],
    *,
    obj: object,
    environment: Mapping[str, str],
    tell: Callable[[str], object],
) -> int:
    """Run a command line and return its exit code.

    Each error is passed to `tell` as one line; most errors result in exit code 2. Only SystemExit with a code other
    than 1 propagates: after any other exception, Python would exit with 1, which has another meaning in most commands.
    With MILKRUN_TRACEBACK=1, the traceback of an unexpected exception is printed before the line.
    """
    try:
        for number, argument in enumerate(arguments, 1):
            if not argument.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in argument):
                raise Refusal(f"argument {number} is not UTF-8 text: {argument!r}")
        code = app(list(arguments), standalone_mode=False, obj=obj)
        return code if isinstance(code, int) else 0
    except typer.Abort:
        tell("Aborted.")
        return 1
    except KeyboardInterrupt:
        return 130
    except SystemExit as end:
        # typer and rich exit with 1 if the reader of a pipe, such as `head`, has ended.
        if end.code != 1:
            raise
        return CLOSED_PIPE
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            return COULD_NOT_LOOK  # the help page has been printed
        line, is_bug = explain(error)
        if is_bug and environment.get(TRACEBACK):
            traceback.print_exc()
        tell(line)
        return error.exit_code if isinstance(error, Refusal) else COULD_NOT_LOOK


def explain(error: Exception) -> tuple[str, bool]:
    """Return an exception as one line, and whether it is a bug (an exception that no command expects)."""
    match error:
        case Refusal():
            return one_line(str(error)), False
        case typer.TyperException():
            return one_line(error.format_message()), False
        case OSError() if error.errno:
            return one_line(_about_a_file(error)), False
    from botocore.exceptions import BotoCoreError, ClientError  # takes 0.2 s to import

    if isinstance(error, BotoCoreError | ClientError | RetryableError | PermanentError):
        return one_line(str(error)), False
    said = f": {error}" if str(error) else ""
    return (
        one_line(f"unexpected {type(error).__name__}{said}. Set {TRACEBACK}=1 to see the traceback."),
        True,
    )


def one_line(text: str) -> str:
    """Return the text as one line of printable characters.

    Text from other programs and users may contain line feeds and escape sequences.
    """
    words = " ".join(text.split())
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in words
    )


def _about_a_file(error: OSError) -> str:
    reason = error.strerror or os.strerror(error.errno or 0)
    files = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    return f"{files}: {reason}" if files else str(error)
