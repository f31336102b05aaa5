"""Quote strings as SQL literals. The code must be valid in Python 3.11, which Glue runs."""


def quoted(text: str) -> str:
    """Return the text as a SQL string literal, for parts of a statement that accept no bind variable."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
