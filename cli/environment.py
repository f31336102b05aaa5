"""The environment variables that our programs inherit from the caller.

A developer's environment often changes how Python, Node, uv, boto3, dbt or git behave (proxy, AWS profile,
PYTHONPATH, NODE_OPTIONS). Programs of the local stack and package installers therefore get only the variables
listed here, and our own commands get all variables except those that change how Python runs. This module uses only
the standard library, because entry points call it before they import anything else.
"""

import os
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TextIO

# Even if every parameter is given, the connector reads connections.toml in SNOWFLAKE_HOME, and fails if the file is
# invalid, so our programs get a folder without this file. The folder must exist. (Snowflake Connector for Python:
# "Connecting using the connections.toml file".)
_ENVIRONMENTS = Path(__file__).resolve().parents[1] / ".venvs"
SNOWFLAKE_HOME = str(_ENVIRONMENTS / ".snowflake")

LOOPBACK = ("127.0.0.1", "localhost", "::1")

_PERSON = {
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "TMPDIR",
    "TERM",
    "COLORTERM",
    "LANG",
    "PWD",
    "JAVA_HOME",
}
_PROXIES = {"http_proxy", "https_proxy", "all_proxy", "no_proxy"}  # in lower or upper case
_CERTIFICATES = {
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
}
# Variables that determine where packages come from and where they are stored, so an installer needs them.
_INSTALLATION = re.compile(
    r"XDG_(CACHE|CONFIG|DATA)_HOME|NETRC|PYENV_ROOT|NPM_TOKEN"
    r"|UV_(CACHE_DIR|DEFAULT_INDEX|INDEX\w*|EXTRA_INDEX_URL|FIND_LINKS|NATIVE_TLS|SYSTEM_CERTS|HTTP_TIMEOUT"
    r"|INSECURE_HOST|KEYRING_PROVIDER|LINK_MODE|CONCURRENT_\w+)"
    r"|PIP_(INDEX_URL|EXTRA_INDEX_URL|FIND_LINKS|CERT|CLIENT_CERT|TRUSTED_HOST|PROXY|CACHE_DIR|CONFIG_FILE"
    r"|TIMEOUT|DEFAULT_TIMEOUT|RETRIES)"
    r"|(npm_config|NPM_CONFIG)_\w*(registry|proxy|noproxy|cafile|ca|strict_ssl|cache|REGISTRY|PROXY|NOPROXY|CAFILE|CA"
    r"|STRICT_SSL|CACHE)"
)
# Python's variables that change neither imports nor output (PYTHONUTF8 is passed on as 1). PYTHONDONTWRITEBYTECODE is
# not among them, because with it every process would compile its 3,000 modules again, which takes seconds.
_HARMLESS = {
    "PYTHONUNBUFFERED",
    "PYTHONPYCACHEPREFIX",
    "PYTHONFAULTHANDLER",
    "PYTHONHASHSEED",
    "PYTHONUTF8",
}


def for_programs(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a program of the local stack: the caller's basic variables, no proxies,
    UTF-8 and UTC.
    """
    kept = {name: value for name, value in environment.items() if name in _PERSON}
    return kept | {
        "LC_ALL": "C.UTF-8",
        "PYTHONUTF8": "1",
        "TZ": "UTC",
        "NO_PROXY": "*",
        "no_proxy": "*",
        "SNOWFLAKE_HOME": SNOWFLAKE_HOME,
    }


def for_installation(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a package installer, including proxies, certificates and package indexes.

    uv fails without a cache folder. If the home folder is not writable, uv gets the cache folder of tools/setup.sh.
    """
    kept = {
        name: value
        for name, value in environment.items()
        if name.lower() in _PROXIES or name in _CERTIFICATES or _INSTALLATION.fullmatch(name)
    }
    own = {} if has_writable_home(environment) else {"UV_CACHE_DIR": str(_ENVIRONMENTS / "cache/uv")}
    return without_proxy_on_loopback(
        for_programs(environment) | {"NO_PROXY": "", "no_proxy": ""} | own | kept
    )


def has_writable_home(environment: Mapping[str, str]) -> bool:
    """Return whether programs can write to the home folder and to the cache folder, which is created if missing."""
    home = environment.get("HOME")
    if not home or not os.access(home, os.W_OK):
        return False
    caches = [Path(home, ".cache"), Path(environment.get("XDG_CACHE_HOME") or Path(home, ".cache"))]
    try:
        for folder in caches:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return all(os.access(folder, os.W_OK) for folder in caches)


def without_proxy_on_loopback(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables with the loopback addresses added to NO_PROXY and no_proxy.

    Both are set, because a program may read either.
    """
    named = [environment.get(name, "") for name in ("NO_PROXY", "no_proxy")]
    hosts = dict.fromkeys(host.strip() for text in named for host in text.split(",") if host.strip())
    value = "*" if "*" in hosts else ",".join(dict.fromkeys([*hosts, *LOOPBACK]))
    return {**environment, "NO_PROXY": value, "no_proxy": value}


def for_commands(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for one of our own commands.

    It is the caller's environment without the variables that change how Python runs, and with loopback
    addresses exempt from any proxy.
    """
    kept = {
        name: value
        for name, value in environment.items()
        if not name.startswith("PYTHON") or name in _HARMLESS
    }
    if "PYTHONUTF8" in kept:
        kept["PYTHONUTF8"] = "1"
    if any(name.lower() in _PROXIES for name in environment):
        return without_proxy_on_loopback(kept)
    return kept


def restart_if_needed() -> None:
    """Start this command again with the environment of `for_commands` if it differs; otherwise set SNOWFLAKE_HOME.

    PYTHONPATH, PYTHONWARNINGS=error and an encoding other than UTF-8 take effect before our first line of
    code runs, so only a new process can avoid them.
    """
    wanted = for_commands(os.environ)
    if not all(_is_utf8(stream) for stream in (sys.stdout, sys.stderr)):
        wanted["PYTHONUTF8"] = "1"
    if wanted != dict(os.environ):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], wanted)
    with suppress(OSError):  # in a read-only clone, the connector uses the user's folder
        Path(SNOWFLAKE_HOME).mkdir(parents=True, exist_ok=True)
    os.environ["SNOWFLAKE_HOME"] = SNOWFLAKE_HOME


def _is_utf8(stream: TextIO | None) -> bool:
    return stream is None or stream.encoding.lower() in ("utf-8", "utf8")
