"""SQL literals. Glue runs Python 3.11, so this module must be valid there."""


def quoted(text: str) -> str:
    """Return the text as a SQL string literal, for parts of a statement that accept no bind variable."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
