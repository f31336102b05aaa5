"""Test that our tools can call an AWS emulator regardless of the user's AWS settings."""

import logging
import subprocess
import sys
from pathlib import Path

from moto.server import ThreadedMotoServer

HOSTILE = {
    "AWS_PROFILE": "no-such-profile",
    "AWS_DEFAULT_PROFILE": "no-such-profile-either",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9",
    "AWS_ENDPOINT_URL_DYNAMODB": "http://127.0.0.1:9",
    "AWS_USE_FIPS_ENDPOINT": "true",
    "AWS_USE_DUALSTACK_ENDPOINT": "true",
    "AWS_CA_BUNDLE": "/no/such/bundle",
    "AWS_MAX_ATTEMPTS": "many",
    "AWS_RETRY_MODE": "no-such-mode",
    "AWS_DEFAULTS_MODE": "no-such-mode",
    "AWS_S3_US_EAST_1_REGIONAL_ENDPOINT": "nowhere",
    "AWS_STS_REGIONAL_ENDPOINTS": "nowhere",
    "AWS_REQUEST_CHECKSUM_CALCULATION": "sometimes",
    "AWS_ACCOUNT_ID_ENDPOINT_MODE": "required",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
    "ALL_PROXY": "socks5://127.0.0.1:9",
}
CODE = """
import sys
from botocore.config import Config
from snowpipe.emulator_session import NO_PROXIES, emulator_session

client = lambda name: emulator_session(None).client(name, endpoint_url=sys.argv[1], config=Config(proxies=NO_PROXIES))
client("s3").create_bucket(Bucket="trial")
client("s3").put_object(Bucket="trial", Key="k", Body=b"kept")
print(client("s3").get_object(Bucket="trial", Key="k")["Body"].read().decode())
for service, operation in [("dynamodb", "list_tables"), ("sqs", "list_queues"), ("sts", "get_caller_identity")]:
    getattr(client(service), operation)()
"""


def test_user_settings_do_not_affect_calls_to_the_emulator(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(
        "[default]\nregion = nowhere\nendpoint_url = http://127.0.0.1:9\ns3 =\n  addressing_style = virtual\n"
    )
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        url = f"http://127.0.0.1:{server.get_host_and_port()[1]}"
        environment = HOSTILE | {"AWS_CONFIG_FILE": str(config), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(
            [sys.executable, "-c", CODE, url], env=environment, capture_output=True, text=True, check=False
        )
    finally:
        server.stop()
    assert (done.returncode, done.stdout) == (0, "kept\n"), done.stderr[-500:]
