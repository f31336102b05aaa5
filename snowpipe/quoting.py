"""SQL literals. Glue runs Python 3.11, so this module keeps to its syntax."""


def quoted(text: str) -> str:
    """A string literal, for the places in a statement that take no bound value."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
