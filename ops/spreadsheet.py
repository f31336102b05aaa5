"""Make CSV cells safe to open in a spreadsheet."""


def spreadsheet_safe(value: object) -> object:
    """Put an apostrophe before a text that a spreadsheet would interpret as a formula.

    The texts of a report come from phones (OWASP: "CSV Injection").
    """
    if value is None:
        return ""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return value
