"""Test that `milkrun warehouse diff` reports each object that differs from the DDL, and that `apply` repairs
it if that is safe.

No stack is needed: the tests start a local Snowflake, with moto for S3, SNS and SQS.
"""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from local_snowflake.testing import Aws, LocalProcess, eventually
from snowpipe.archive import Archive, parameters
from snowpipe.ddl_files import DDL, Parameters, definitions
from snowpipe.ddl_objects import objects
from snowpipe.pipes import Kind, Pipe
from snowpipe.recreate import Recreation
from snowpipe.settings import load
from tests.unit.snowpipe.warehouse_stage import Stage

pytestmark = pytest.mark.slow  # each test changes or creates a warehouse and compares it with the DDL


@pytest.fixture
def stage(aws: Aws, local: LocalProcess, tmp_path: Path) -> Iterator[Stage]:
    """Yield a stage on which the DDL has not been run yet. Its settings make the DDL create a separate virtual
    warehouse and a resource monitor.
    """
    stage = Stage(tmp_path / "stage", local, aws)
    stage.outputs["credit_quota"] = "100"
    stage.outputs["snowflake"]["warehouse"] = f"{stage.database}_WH"
    (stage.folder / "outputs.json").write_text(json.dumps(stage.outputs))
    yield stage
    stage.close()


def named(stage: Stage) -> set[tuple[str, str]]:
    """Return the object and the property of each difference, with the database's name removed or replaced with DB."""
    said = stage.run("diff", "--json")
    assert said.code == (1 if said.rows else 0), said
    return {
        (row["object"].replace(f"{stage.database}.", "").replace(stage.database, "DB"), row["what"])
        for row in said.rows
    }


REPAIRED = {
    "CREATE OR REPLACE VIEW {db}.OPS.LOADED_FILES COPY GRANTS\nAS\nSELECT 1 AS a": (
        "view OPS.LOADED_FILES",
        "query",
    ),
    "CREATE OR ALTER FILE FORMAT {db}.RAW.NDJSON TYPE = JSON COMPRESSION = GZIP STRIP_OUTER_ARRAY = FALSE": (
        "file format RAW.NDJSON",
        "COMPRESSION",
    ),
    "ALTER WAREHOUSE {db}_WH SET AUTO_SUSPEND = 3600": ("warehouse DB_WH", "AUTO_SUSPEND"),
    "ALTER WAREHOUSE {db}_WH SET STATEMENT_TIMEOUT_IN_SECONDS = 172800": (
        "warehouse DB_WH",
        "STATEMENT_TIMEOUT_IN_SECONDS",
    ),
    "ALTER WAREHOUSE {db}_WH SET RESOURCE_MONITOR = ANOTHER": ("warehouse DB_WH", "RESOURCE_MONITOR"),
    "ALTER RESOURCE MONITOR {db}_WH_MONITOR SET CREDIT_QUOTA = 5": (
        "resource monitor DB_WH_MONITOR",
        "CREDIT_QUOTA",
    ),
    "ALTER SCHEMA {db}.MARTS DISABLE MANAGED ACCESS": ("schema MARTS", "MANAGED ACCESS"),
    "ALTER STORAGE INTEGRATION {db}_S3 SET STORAGE_AWS_ROLE_ARN = 'arn:aws:iam::123456789012:role/old'": (
        "storage integration DB_S3",
        "STORAGE_AWS_ROLE_ARN",
    ),
    "REVOKE SELECT ON TABLE {db}.RAW.EVENTS FROM ROLE {db}_TRANSFORMER": ("role DB_TRANSFORMER", "grant"),
    "REVOKE SELECT ON VIEW {db}.OPS.LOAD_FAILURES FROM ROLE {db}_LOADER": ("role DB_LOADER", "grant"),
    "REVOKE SELECT ON FUTURE TABLES IN SCHEMA {db}.MARTS FROM ROLE {db}_READER": ("role DB_READER", "grant"),
    "REVOKE ROLE {db}_LOADER FROM ROLE {db}_OPERATOR": ("role DB_OPERATOR", "grant"),
    "DROP VIEW {db}.OPS.LOAD_DELAYS": ("view OPS.LOAD_DELAYS", "object"),
}
LEFT = {
    "ALTER STORAGE INTEGRATION {db}_S3 SET ENABLED = FALSE": ("storage integration DB_S3", "ENABLED"),
    "ALTER WAREHOUSE {db}_WH SET AUTO_RESUME = FALSE": ("warehouse DB_WH", "AUTO_RESUME"),
    "ALTER WAREHOUSE {db}_WH SET WAREHOUSE_SIZE = 'MEDIUM'": ("warehouse DB_WH", "WAREHOUSE_SIZE"),
    "ALTER STORAGE INTEGRATION {db}_S3 SET STORAGE_ALLOWED_LOCATIONS = ('s3://elsewhere/')": (
        "storage integration DB_S3",
        "STORAGE_ALLOWED_LOCATIONS",
    ),
    "GRANT SELECT ON TABLE {db}.RAW.EVENTS TO ROLE PUBLIC": ("role PUBLIC", "grant"),
    "GRANT ROLE {db}_TRANSFORMER TO ROLE {db}_WATCHER": ("role DB_WATCHER", "grant"),
    "GRANT SELECT ON FUTURE TABLES IN SCHEMA {db}.RAW TO ROLE {db}_READER": ("role DB_READER", "grant"),
}


def test_apply_reverts_only_safe_changes_and_diff_names_a_repair_for_the_others(stage: Stage) -> None:
    stage.create_objects()
    stage.query("CREATE RESOURCE MONITOR IF NOT EXISTS ANOTHER WITH CREDIT_QUOTA = 1")
    for statement in REPAIRED | LEFT:
        stage.query(statement.format(db=stage.database))
    assert named(stage) == {*REPAIRED.values(), *LEFT.values()}
    stage.done("apply")
    assert named(stage) == set(LEFT.values())
    for left in stage.run("diff", "--json").rows:
        stage.query(left["repair"])
    assert named(stage) == set()


def test_changed_tables_stages_and_pipes_are_reported_and_apply_is_refused(stage: Stage) -> None:
    stage.create_objects()
    raw = f"{stage.database}.RAW"
    (pipe,) = stage.query(f"DESC PIPE {raw}.REJECTED_PIPE")
    changed = pipe["definition"].replace("SKIP_FILE", "CONTINUE")
    stage.query(f"ALTER TABLE {raw}.EVENTS ADD COLUMN more VARCHAR")
    stage.query(f"ALTER STAGE {raw}.EVENTS_STAGE SET URL = 's3://{stage.bucket}/events/more/'")
    stage.query(
        f"CREATE OR REPLACE PIPE {raw}.REJECTED_PIPE AUTO_INGEST = TRUE AWS_SNS_TOPIC = '{stage.topic}' "
        f"AS {changed}"
    )
    assert named(stage) >= {
        ("table RAW.EVENTS", "column MORE"),
        ("stage RAW.EVENTS_STAGE", "URL"),
        ("pipe RAW.REJECTED_PIPE", "COPY"),
    }
    refused = stage.run("apply")
    assert refused.code == 1
    assert "MILKRUN_BUCKET" in refused.err


def test_pipe_reports_load_errors_to_the_error_topic_even_after_it_is_recreated(
    stage: Stage, aws: Aws
) -> None:
    topic = aws.sns.create_topic(Name=f"alarms-{stage.bucket}")["TopicArn"]
    queue = aws.sqs.create_queue(QueueName=f"alarms-{stage.bucket}")["QueueUrl"]
    aws.sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=f"{topic.replace(':sns:', ':sqs:')}")
    stage.outputs |= {"error_topic_arn": topic, "error_role_arn": "arn:aws:iam::123456789012:role/errors"}
    (stage.folder / "outputs.json").write_text(json.dumps(stage.outputs))
    stage.done("apply")
    assert named(stage) == set()
    stage.query(f"USE WAREHOUSE {stage.database}_WH")
    pipe = Pipe(stage.database, Kind.events)
    stage.query(f"ALTER PIPE {pipe.name} UNSET ERROR_INTEGRATION")
    errors = f"{stage.database}_ERRORS"
    stage.query(f"ALTER NOTIFICATION INTEGRATION {errors} SET AWS_SNS_ROLE_ARN = 'arn:aws:iam::1:role/old'")
    assert named(stage) == {
        ("pipe RAW.EVENTS_PIPE", "ERROR_INTEGRATION"),
        ("notification integration DB_ERRORS", "AWS_SNS_ROLE_ARN"),
    }
    stage.done("apply")
    assert named(stage) == set()
    ddl = definitions(parameters(load(stage.environment)))
    Recreation(
        stage.warehouse,
        pipe,
        next(each for each in ddl if each.is_pipe and each.pipe == pipe.name),
        Archive(stage.aws.s3, stage.bucket),
        stage.folder / "recreate.json",
        lambda _: None,
        settling=timedelta(seconds=2),
    ).run()
    assert named(stage) == set()

    key = stage.put([b"{not json"])

    def reported() -> str:
        found = aws.sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", [])
        return "".join(message["Body"] for message in found)

    report = eventually(reported, lambda text: key.removeprefix("events/") in text)
    assert pipe.name in report


def test_diff_reports_every_object_as_missing_before_the_first_apply(stage: Stage) -> None:
    missing = [row["object"] for row in stage.run("diff", "--json").rows]
    assert len(missing) == len(_objects())


def _objects() -> list[str]:
    known = Parameters.model_validate(
        {
            "database": "D",
            "warehouse": "W",
            "bucket": "bucket",
            "topic_arn": "arn:aws:sns:eu-west-1:123456789012:topic",
            "storage_role_arn": "arn:aws:iam::123456789012:role/role",
            "external_id": "external",
            "credit_quota": "100",
        }
    )
    return [each.kind for each in objects(definitions(known, DDL))]
