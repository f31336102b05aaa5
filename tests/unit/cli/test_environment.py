"""Test the environment variables that our commands inherit."""

import os
from pathlib import Path

import pytest

from cli.environment import for_commands, for_installation, has_writable_home


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


@pytest.mark.parametrize("home", ["/sys/kernel", "/no/such/home", ""], ids=["read-only", "missing", "none"])
def test_package_installer_has_a_cache_if_the_home_directory_is_not_writable(home: str) -> None:
    assert for_installation({"HOME": home})["UV_CACHE_DIR"].endswith("/.venvs/cache/uv")
    assert for_installation({"HOME": home, "UV_CACHE_DIR": "/mine"})["UV_CACHE_DIR"] == "/mine"


@pytest.mark.parametrize("caches", [".cache", "xdg"])
def test_home_directory_with_a_folder_of_caches_that_is_not_writable_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caches: str
) -> None:
    """For example, the folder belongs to root after `sudo pip install`. The tests may run as root."""
    environment = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "xdg")}
    assert has_writable_home(environment)
    assert "UV_CACHE_DIR" not in for_installation(environment)
    monkeypatch.setattr(os, "access", lambda path, _: Path(path).name != caches)
    assert not has_writable_home(environment)
