"""Make CSV cells safe to open in a spreadsheet."""


def spreadsheet_safe(value: object) -> object:
    """Prefix a string with an apostrophe if a spreadsheet would interpret it as a formula; None becomes "".

    Texts in a report may come from phones, so they may be malicious (OWASP: "CSV Injection").
    """
    if value is None:
        return ""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return value
