"""CSV cells that are safe in a spreadsheet."""


def spreadsheet_safe(value: object) -> object:
    """Return the value of a CSV cell, with an apostrophe before texts that a spreadsheet would run as a
    formula.

     Ids and names come from phones (OWASP: "CSV Injection").
    """
    if value is None:
        return ""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return value
