"""Run dbt repeatedly in one process, because each start of dbt takes some seconds.

The script runs in `.venvs/dbt`. Each line of standard input is a JSON list of dbt arguments. For each, it writes a
line of JSON with `ok`, `messages` about the failures, `seconds` per model, and the `statements` that dbt sent for the
first time.
"""

import contextlib
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

from dbt.cli.main import dbtRunner
from snowflake.connector.cursor import SnowflakeCursor

sys.path.append(str(Path(__file__).parents[1]))
from snowpipe.dbt_process import make_loggers


def note_statements() -> dict[str, bool]:
    """Make the connector record each statement that it sends.

    Returns a dict that maps each statement's text to whether `main` has reported it. Each new statement is added.
    """
    noted: dict[str, bool] = {}
    execute: Callable[..., object] = SnowflakeCursor.execute

    def noting(self: SnowflakeCursor, command: str, *arguments: object, **named: object) -> object:
        noted.setdefault(command, False)
        return execute(self, command, *arguments, **named)

    patch.object(SnowflakeCursor, "execute", noting).start()
    return noted


def main() -> None:
    make_loggers()
    noted = note_statements()
    runner = dbtRunner()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        arguments = json.loads(line)
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            done = runner.invoke(arguments)
        results = getattr(done.result, "results", None) or []
        failed = [
            f"{each.node.name}: {each.message}"
            for each in results
            if str(each.status) not in ("success", "pass", "warn")
        ]
        problem = [] if done.success or failed else [str(done.exception), said.getvalue()[-3000:]]
        seconds = {each.node.name: each.execution_time for each in results}
        new = [sql for sql, reported in noted.items() if not reported]
        noted |= dict.fromkeys(new, True)
        answer = {
            "ok": bool(done.success),
            "messages": failed + problem,
            "seconds": seconds,
            "statements": new,
        }
        answers.write(json.dumps(answer) + "\n")
    Path(os.environ["DBT_TARGET_PATH"]).mkdir(exist_ok=True)


if __name__ == "__main__":
    main()
