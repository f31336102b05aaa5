"""CSV for people who open it in a spreadsheet."""


def spreadsheet_safe(value: object) -> object:
    """Return the value for a CSV cell; a text that a spreadsheet would run as a formula gets an apostrophe.

    Ids and names come from phones (OWASP: "CSV Injection").
    """
    if value is None:
        return ""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return value
