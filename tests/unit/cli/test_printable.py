"""Test that text from events cannot control the terminal."""

import io

from rich.text import Text

from cli.printable import SafeConsole


def test_safe_console_escapes_control_characters() -> None:
    file = io.StringIO()
    SafeConsole(file=file, force_terminal=False).print("a\x1b[31mb", Text("c\u202ed"))
    assert file.getvalue().strip() == r"a\u001b[31mb c\u202ed"
