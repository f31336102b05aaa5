"""Test that osls fails before it calls any service if a command for stage `local` would reach a real account."""

import subprocess
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from tools import check


@pytest.fixture
def listener():
    """Yield the port of a server that answers every request with an error, and the list of the paths requested
    so far.
    """
    calls = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            calls.append(self.path)
            self.send_response(400)
            self.end_headers()

        do_GET = do_POST = do_PUT = do_HEAD = answer

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server.server_port, calls
    server.shutdown()
    server.server_close()


def osls(*arguments, **environment):
    return subprocess.run(
        [check.ROOT / "node_modules" / ".bin" / "osls", *arguments],
        cwd=check.ROOT,
        env=check.dummy_environment() | environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


def everything_at(port):
    return {
        f"AWS_ENDPOINT_URL_{service}": f"http://127.0.0.1:{port}"
        for service in ("CLOUDFORMATION", "S3", "STS")
    }


COMMANDS = [
    ("deploy",),
    ("remove",),
    pytest.param(("deploy", "function", "--function", "ingest"), marks=pytest.mark.slow),
    pytest.param(("info",), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_osls_rejects_stage_local_without_an_endpoint_before_any_call(listener, command):
    port, calls = listener
    done = osls(*command, **everything_at(port))
    assert done.returncode != 0
    assert 'Stage "local" needs AWS_ENDPOINT_URL with a loopback address' in done.stdout + done.stderr
    assert calls == []


@pytest.mark.parametrize(
    "host",
    [
        "0.0.0.0",
        "127.0.0.1.example.test",
        pytest.param("example.test", marks=pytest.mark.slow),
        pytest.param("localhost.example.test", marks=pytest.mark.slow),
    ],
)
def test_osls_rejects_stage_local_with_an_endpoint_that_is_not_loopback(listener, host):
    port, calls = listener
    done = osls("remove", AWS_ENDPOINT_URL=f"http://{host}:{port}", **everything_at(port))
    assert 'Stage "local" needs AWS_ENDPOINT_URL' in done.stdout + done.stderr
    assert calls == []


@pytest.mark.parametrize(
    "setting",
    [
        {"AWS_ENDPOINT_URL_LAMBDA": "https://lambda.us-east-1.amazonaws.com"},
        {"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_osls_rejects_settings_that_bypass_the_endpoint_of_stage_local(listener, setting):
    port, calls = listener
    done = osls("info", AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}", **everything_at(port) | setting)
    assert 'Stage "local" needs AWS_ENDPOINT_URL' in done.stdout + done.stderr
    assert calls == []


def test_osls_calls_the_loopback_endpoint_of_stage_local(listener):
    port, calls = listener
    done = osls("info", "--stage", "local", AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}")
    assert "needs AWS_ENDPOINT_URL" not in done.stdout + done.stderr
    assert calls
