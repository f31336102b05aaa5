"""Make text from events safe for a terminal, because ids may contain escape sequences that hide other lines."""

import unicodedata
from typing import Any

from rich.console import Console
from rich.text import Text

# Control, format (such as bidirectional marks), surrogate, private and unassigned characters; line and
# paragraph separators.
_HIDDEN = frozenset(["Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"])


def printable(text: str) -> str:
    r"""Return the text with `\u....` in place of every character that a terminal interprets or hides; line
    feeds are kept.
    """
    if text.isprintable():
        return text
    return "".join(c if c == "\n" or unicodedata.category(c) not in _HIDDEN else json_escape(c) for c in text)


def json_escape(character: str) -> str:
    r"""Return a character as JSON's `\u....`; a character beyond U+FFFF becomes a surrogate pair."""
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


class SafeConsole(Console):
    """A rich Console that passes each string and Text object through `printable` before printing it."""

    def print(self, *objects: object, **options: Any) -> None:
        super().print(*map(_safe, objects), **options)


def _safe(item: object) -> object:
    if isinstance(item, str):
        return printable(item)
    if isinstance(item, Text) and not item.plain.isprintable():
        return Text(printable(item.plain), style=item.style)
    return item
