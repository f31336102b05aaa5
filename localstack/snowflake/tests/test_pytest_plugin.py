"""Run the README's example, and tests with and without AWS, with the pytest fixtures of the installed package."""

import os
import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
LOADING = """
import boto3
import pytest
from moto.server import ThreadedMotoServer


@pytest.fixture(scope="session")
def snowflake_aws_endpoint_url():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://127.0.0.1:%d" % server.get_host_and_port()[1]
    server.stop()


def test_file_of_a_bucket_is_copied(snowflake_server, snowflake_aws_endpoint_url):
    s3 = boto3.client("s3", endpoint_url=snowflake_aws_endpoint_url, region_name="us-east-1",
                      aws_access_key_id="test", aws_secret_access_key="test")
    s3.create_bucket(Bucket="orders")
    s3.put_object(Bucket="orders", Key="one.json", Body=b'{"price": 9.5}')
    with snowflake_server.connect() as connection, connection.cursor() as cursor:
        for sql in (
            "CREATE DATABASE bucket",
            "CREATE SCHEMA bucket.raw",
            "USE SCHEMA bucket.raw",
            "CREATE TABLE orders (payload VARIANT)",
            "CREATE STAGE files URL = 's3://orders/' FILE_FORMAT = (TYPE = JSON)",
            "COPY INTO orders FROM (SELECT $1 FROM @files)",
        ):
            cursor.execute(sql)
        assert cursor.execute("SELECT payload:price::NUMBER(5, 2) FROM orders").fetchone() == (9.5,)
"""
NO_AWS = """
import pytest
from snowflake.connector.errors import DatabaseError


def test_bucket_cannot_be_reached(snowflake_server):
    with snowflake_server.connect() as connection, connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE alone")
        cursor.execute("CREATE SCHEMA alone.raw")
        cursor.execute("USE SCHEMA alone.raw")
        cursor.execute("CREATE TABLE orders (payload VARIANT)")
        cursor.execute("CREATE STAGE files URL = 's3://orders/' FILE_FORMAT = (TYPE = JSON)")
        with pytest.raises(DatabaseError):
            cursor.execute("COPY INTO orders FROM (SELECT $1 FROM @files)")
"""


def run(folder: Path, *tests: str) -> "subprocess.CompletedProcess[str]":
    """Run test files in their own folder, without AWS credentials or settings, and return the completed
    pytest process.
    """
    for number, text in enumerate(tests):
        (folder / f"test_{number}.py").write_text(text)
    (folder / "pytest.ini").write_text("[pytest]\n")
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PYTEST"))
    }
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--basetemp", "made", "."],
        cwd=folder, env=environment, check=False, capture_output=True, text=True, timeout=240,
    )  # fmt: skip


def test_readme_example_passes_without_aws(tmp_path: Path) -> None:
    [example] = re.findall(r"```python\n(def test_.+?)```", README.read_text(), re.DOTALL)
    assert len(example.splitlines()) == 5
    ran = run(tmp_path, example, NO_AWS)
    assert "2 passed" in ran.stdout, ran.stdout + ran.stderr


def test_files_are_copied_from_the_aws_endpoint_that_the_test_provides(tmp_path: Path) -> None:
    ran = run(tmp_path, LOADING)
    assert "1 passed" in ran.stdout, ran.stdout + ran.stderr
