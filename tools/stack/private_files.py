"""Write files of a stack so that only the user may read them."""

import os
from pathlib import Path


def write(file: Path, text: str) -> None:
    """Replace the file's content atomically: after an interruption, the file has the old or the new content,
    or does not exist, but is never incomplete.
    """
    new = file.with_name(f"{file.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as output:
        output.write(text)
    new.replace(file)
