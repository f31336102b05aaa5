"""Test the connector's Arrow reader in several threads at once, the watchdog that ends dbt if Snowflake does not
respond, and the cancellation of dbt's queries after SIGTERM.

Without `make_loggers`, about half of the processes in the test of the Arrow reader hang with connector 4.8.0, the
version in dbt's environment.
"""

import subprocess
import sys

import pytest

from snowpipe.run_dbt import DBT
from tests.unit.snowpipe.silent_port import silent_port

# An Arrow result of one column and one row, as Snowflake sends it.
RESULT = (
    "/////4ABAAAQAAAAAAAKAAwABgAFAAgACgAAAAABBAAMAAAACAAIAAAABAAIAAAABAAAAAEAAAAYAAAAAAASABgACAAGAAcADAAA"
    "ABAAFAASAAAAAAABAhQAAAAcAQAACAAAABAAAAAAAAAAAQAAAE4AAAAGAAAA0AAAAKAAAAB8AAAAVAAAACwAAAAEAAAAUP///xAA"
    "AAAEAAAAAQAAAFQAAAAJAAAAZmluYWxUeXBlAAAAdP///xAAAAAEAAAAAQAAADEAAAAKAAAAYnl0ZUxlbmd0aAAAmP///xAAAAAE"
    "AAAAAQAAADAAAAAKAAAAY2hhckxlbmd0aAAAvP///xAAAAAEAAAAAQAAADAAAAAFAAAAc2NhbGUAAADc////EAAAAAQAAAABAAAA"
    "MQAAAAkAAABwcmVjaXNpb24AAAAIAAwABAAIAAgAAAAUAAAABAAAAAUAAABGSVhFRAAAAAsAAABsb2dpY2FsVHlwZQAIAAwACAAH"
    "AAgAAAAAAAABCAAAAAAAAAD/////iAAAABQAAAAAAAAADAAWAAYABQAIAAwADAAAAAADBAAYAAAACAAAAAAAAAAAAAoAGAAMAAQA"
    "CAAKAAAAPAAAABAAAAABAAAAAAAAAAAAAAACAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAQAAAAAAAAAAAAAAAQAAAAEAAAAA"
    "AAAAAAAAAAAAAAABAAAAAAAAAP////8AAAAA"
)
READ_IN_EIGHT_THREADS = """
import base64, logging, sys, threading
logging.basicConfig(level=logging.WARNING)
sys.path.append(sys.argv[1])
from snowflake.connector.arrow_context import ArrowConverterContext
from snowflake.connector.nanoarrow_arrow_iterator import PyArrowRowIterator
from snowpipe.dbt_process import make_loggers
make_loggers()
sys.setswitchinterval(1e-7)
result, together, rows = base64.b64decode(sys.argv[2]), threading.Barrier(8), []
def read():
    together.wait()
    rows.append(list(PyArrowRowIterator(None, result, ArrowConverterContext(), False, False, False, False)))
threads = [threading.Thread(target=read) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert rows == [[(1,)]] * 8, rows
"""


@pytest.mark.slow
@pytest.mark.parametrize("python", [sys.executable, str(DBT.with_name("python"))], ids=["ours", "dbt's"])
def test_several_threads_can_read_their_first_arrow_results_concurrently(python: str) -> None:
    root = str(DBT.parents[3])
    for _ in range(3):
        command = [python, "-c", READ_IN_EIGHT_THREADS, root, RESULT]
        assert subprocess.run(command, check=True, timeout=60, capture_output=True).stderr == b""


def test_watchdog_of_dbt_ends_the_process_with_code_2_if_snowflake_does_not_respond() -> None:
    program = (
        "import sys, threading, time\n"
        "from snowpipe import dbt_process\n"
        "dbt_process.SILENT_SECONDS = 1\n"
        "threading.Thread(target=dbt_process.end_if_silent, args=(sys.argv[1],)).start()\n"
        "time.sleep(60)\n"
    )
    with silent_port() as port:
        command = [sys.executable, "-c", program, f"http://127.0.0.1:{port}"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=40, check=False)
    assert ended.returncode == 2
    assert f"No answer from Snowflake at http://127.0.0.1:{port}" in ended.stderr


def test_sigterm_lets_dbt_cancel_its_queries_as_ctrl_c_does() -> None:
    """Airflow sends SIGTERM when a task exceeds its timeout."""
    program = (
        "import os, sys, time\n"
        "from unittest.mock import MagicMock\n"
        "from snowpipe import dbt_process\n"
        "def cli(prog_name):\n"
        "    try:\n"
        "        print('started', flush=True)\n"
        "        time.sleep(60)\n"
        "    except KeyboardInterrupt:\n"
        "        print('cancelled')\n"
        "modules = ('dbt', 'dbt.cli', 'dbt.cli.main', 'snowflake', 'snowflake.connector')\n"
        "sys.modules |= dict.fromkeys(modules, MagicMock(cli=cli))\n"
        "os.environ[dbt_process.ADDRESS] = ''\n"
        "dbt_process.make_loggers = dbt_process.end_if_silent = lambda *_: None\n"
        "dbt_process.main()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "started\n"
        running.terminate()
        assert (running.communicate(timeout=40)[0], running.returncode) == ("cancelled\n", 0)
