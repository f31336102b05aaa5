"""Format tables as Markdown, and insert them into a page between `<!-- NAME -->` and `<!-- end of NAME -->`."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path


def markdown(rows: Sequence[Mapping[str, object]]) -> str:
    names = list(rows[0])
    lines = [[name.replace("_", " ") for name in names], ["---"] * len(names)]
    lines += [[_cell(row[name]) for name in names] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def put(page: Path, name: str, table: str) -> None:
    """Replace the text between the markers for `name`. Raises LookupError if the page has no such markers."""
    before, after = f"<!-- {name} -->", f"<!-- end of {name} -->"
    text, found = re.subn(
        f"{re.escape(before)}.*?{re.escape(after)}",
        lambda _: f"{before}\n{table}\n{after}",
        page.read_text(),
        flags=re.DOTALL,
    )
    if not found:
        raise LookupError(f"{page} has no markers for {name!r}")
    page.write_text(text)
