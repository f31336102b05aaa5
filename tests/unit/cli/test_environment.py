"""Test the environment variables that our commands inherit."""

import pytest

from cli.environment import for_commands


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, {}),
        ({"AWS_PROFILE": "dev", "PYTHONUNBUFFERED": "1"}, {"AWS_PROFILE": "dev", "PYTHONUNBUFFERED": "1"}),
        ({"PYTHONPATH": "/x", "PYTHONWARNINGS": "error", "PYTHONUTF8": "0"}, {"PYTHONUTF8": "1"}),
        ({"PYTHONDONTWRITEBYTECODE": "1"}, {}),
        ({"http_proxy": "p", "NO_PROXY": "*"}, {"http_proxy": "p", "NO_PROXY": "*", "no_proxy": "*"}),
    ],
)
def test_command_inherits_all_variables_except_those_that_change_how_python_runs(given, wanted):
    assert for_commands(given) == wanted
    assert for_commands(for_commands(given)) == wanted  # otherwise the command would restart itself forever
