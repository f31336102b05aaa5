"""Run dbt repeatedly in one process, because its start takes seconds and a run of the models little.

Runs in `.venvs/dbt`. Each line of standard input is a JSON list of dbt arguments; each response is a line of
JSON with `ok`, `messages` of the failures, and `seconds` per model.
"""

import contextlib
import io
import json
import os
import sys
from pathlib import Path

from dbt.cli.main import dbtRunner

sys.path.append(str(Path(__file__).parents[1]))
from snowpipe.arrow import make_loggers


def main() -> None:
    make_loggers()
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
        answers.write(
            json.dumps({"ok": bool(done.success), "messages": failed + problem, "seconds": seconds}) + "\n"
        )
    Path(os.environ["DBT_TARGET_PATH"]).mkdir(exist_ok=True)


if __name__ == "__main__":
    main()
