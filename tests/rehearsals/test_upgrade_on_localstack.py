"""Follow docs/upgrade.md on LocalStack: upgrade a stage of 2026-11-23 to this version, and roll its functions back.

The earlier version is deployed with its own commands. Each deployment takes a minute or more, so `make
rehearse` runs this test and `make test` does not. docs/upgrade.md lists the steps that LocalStack cannot
reproduce.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import urllib3

from contract.events import Fence
from ops.stage_outputs import Outputs
from snowpipe.warehouse import connect
from tests.e2e.pipeline import FARM, Pipeline, crossing, eventually, round_trip
from tests.rehearsals.earlier import Earlier
from tests.rehearsals.test_upgrade import LASTING
from tools.stack import deploy
from tools.stack.stack import SERVERS, Stack

PLANT = Fence("plant", "plant-upgrade")
MORNING = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=6)
TRUCKS = ("upgrade-van-1", "upgrade-van-2", "upgrade-van-3")
PAIRS = {(truck, fence) for truck in TRUCKS for fence in ("farm", "plant")}
STAYS = [
    (FARM, MORNING, MORNING + timedelta(minutes=10)),
    (PLANT, MORNING + timedelta(minutes=20), MORNING + timedelta(minutes=30)),
]
# LocalStack cannot update an API key, and forgets a key whose properties change. AWS updates the description in place.
KEY = """
  ApiGatewayApiKey1:
    Type: AWS::ApiGateway::ApiKey
    Properties:
      Description: The mobile app's key 1 for stage local.
      Value: {key}
"""


@pytest.fixture
def stack() -> Iterator[Stack]:
    port = os.environ.get("MILKRUN_PORT", "5166")
    stack = Stack.of({**os.environ, "MILKRUN_LOCAL": ".local-upgrade", "MILKRUN_PORT": port})
    stack.down()
    yield stack
    stack.down()


@pytest.fixture
def earlier(stack: Stack, tmp_path: Path) -> Earlier:
    """Deploy the earlier version to the servers of an empty stack; return that version."""
    stack.up(only="localstack")
    stack._start([name for name in SERVERS if name != "localstack"])
    # Packaging downloads the dependencies of the functions, so it needs access to the package registry.
    environment = {**stack.settings.installation_environment, **stack.settings.aws_environment}
    environment |= {"SLS_NOTIFICATIONS_MODE": "off", "FORCE_COLOR": "0"}
    version = Earlier.unpack(tmp_path / "earlier", environment)
    with (version.folder / "serverless" / "visits.yml").open("a") as template:
        template.write(KEY.format(key=stack.settings.aws_environment["MILKRUN_API_KEY"]))
    version.osls("deploy", "--stage", deploy.STAGE)
    deploy.write(deploy.outputs(stack.settings, "key"), stack.settings.outputs_file)
    version.python("snowpipe", "apply", "--outputs", stack.settings.outputs_file)
    return version


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_stage_with_data_is_upgraded_and_then_rolled_back(stack: Stack, earlier: Earlier) -> None:
    with opened(stack) as pipeline:
        sent = {truck: [*round_trip(truck, [FARM, PLANT], MORNING)] for truck in TRUCKS}
        batches = [pipeline.post(*events) for events in sent.values()]
        assert {answer.status for answer in batches} == {202}
        eventually(lambda: earlier_pairs(pipeline) == PAIRS, within=60)
        eventually(lambda: loaded(pipeline) == 12, within=60)
        earlier.python("snowpipe", "dbt", "build", "--outputs", stack.settings.outputs_file)
        columns = columns_of_marts(pipeline)
        marts = contents(pipeline, columns)
        assert (marts["STAGING.STG_EVENTS"].total(), marts["MARTS.GEOFENCE_VISITS"].total()) == (12, 6)
        before = kept(pipeline)
        functions = deployed_functions(pipeline)

    # For the guide's steps "Deploy" and "bootstrap", `make up` deploys over the running stage and applies the DDL.
    stack.up()
    with opened(stack) as pipeline:
        assert kept(pipeline) == before
        assert loaded(pipeline) == 12
        key = batches[0].body["object_key"]
        soon = datetime.now(UTC) + timedelta(seconds=30)
        if f"dt={soon:%Y-%m-%d}/hh={soon:%H}" in key:  # in the next hour, the object would have another key
            again = pipeline.post(*sent[TRUCKS[0]])
            assert again.body["object_key"] == key, "a repeated request must add no object"

        # The guide's step "Transfer dbt's tables to dbt's role" and its section "Events identified by device and id".
        # A full refresh must keep the same rows.
        for relations, schema in product(("TABLES", "VIEWS"), ("STAGING", "MARTS")):
            owner = "{db}_TRANSFORMER COPY CURRENT GRANTS"
            pipeline.rows(f"GRANT OWNERSHIP ON ALL {relations} IN SCHEMA {{db}}.{schema} TO ROLE {owner}")
        assert pipeline.ops("warehouse", "dbt", "build").exit_code != 0, "dbt must require a full refresh"
        assert contents(pipeline, columns) == marts
        assert pipeline.ops("warehouse", "dbt", "build", "--full-refresh").exit_code == 0
        assert contents(pipeline, columns) == marts

        # One pair is migrated by its next event, all others by `move-visits`, which then finds no more.
        assert pipeline.post(crossing(TRUCKS[0], "enter", MORNING + timedelta(hours=2))).status == 202
        eventually(lambda: len(pipeline.visits_of(TRUCKS[0])) == 3, within=60)
        moved = pipeline.ops("move-visits", "--json")
        assert moved.exit_code == 0
        assert moved.result["pairs_moved"] >= 4
        assert earlier_pairs(pipeline) == set()
        assert pipeline.ops("move-visits", "--json").result == {"pairs_moved": 0, "items_deleted": 0}
        assert stays(pipeline) == dict.fromkeys(TRUCKS, STAYS)
        left = pipeline.ops("warehouse", "diff", "--json").result
        assert {row["ddl"] for row in left} <= {"none"}, left
        eventually(lambda: pipeline.ops("reconcile", "--settle", "0", "--json").exit_code == 0, within=60)

        # Rollback. LocalStack does not accept the earlier template here ("Unresolved resource dependencies"), so the
        # functions are put back. They cannot read the new items, so the table is emptied and rebuilt from the archive.
        put_back(pipeline, functions)
        empty(pipeline)
        earlier.python("ops", "replay", "--from", "2 hours ago")
        eventually(lambda: earlier_pairs(pipeline) == PAIRS, within=60)
        assert pipeline.post(crossing(TRUCKS[0], "exit", MORNING + timedelta(hours=3))).status == 202
        eventually(lambda: loaded(pipeline) == 14, within=60)
        earlier.python("snowpipe", "dbt", "build", "--full-refresh", "--outputs", stack.settings.outputs_file)
        assert contents(pipeline, columns)["STAGING.STG_EVENTS"].total() == 14


@contextmanager
def opened(stack: Stack) -> Iterator[Pipeline]:
    outputs = Outputs.read(stack.settings.outputs_file)
    environment = {**os.environ, "MILKRUN_LOCAL": str(stack.settings.folder)}
    # The earlier version has no role for the operator.
    administrator = outputs.snowflake.model_copy(update={"role": "ACCOUNTADMIN"})
    with ExitStack() as until_the_end:
        yield Pipeline(outputs, environment, until_the_end.enter_context(connect(administrator)))


def items(pipeline: Pipeline) -> list[dict[str, Any]]:
    pages = pipeline.aws("dynamodb").get_paginator("scan").paginate(TableName=pipeline.outputs.visits_table)
    return [item for page in pages for item in page["Items"]]


def earlier_pairs(pipeline: Pipeline) -> set[tuple[str, str]]:
    """Return the device and the fence's tag of each pair that is stored in the layout of 2026-11-23."""
    pairs = [item["pk"]["S"] for item in items(pipeline) if item["sk"]["S"] == "head"]
    return {(pair.split("#")[0], pair.split("#")[1].split("/")[0]) for pair in pairs}


def empty(pipeline: Pipeline) -> None:
    for item in items(pipeline):
        key = {"pk": item["pk"], "sk": item["sk"]}
        pipeline.aws("dynamodb").delete_item(TableName=pipeline.outputs.visits_table, Key=key)


def deployed_functions(pipeline: Pipeline) -> dict[str, tuple[bytes, dict[str, Any]]]:
    """Return the code and settings of the ingest, redrive and consume functions, by function name."""
    client, found = pipeline.aws("lambda"), {}
    for name in (f"{deploy.STACK_NAME}-{each}" for each in ("ingest", "redrive", "consume")):
        answer = client.get_function(FunctionName=name)
        code = urllib3.request("GET", answer["Code"]["Location"]).data
        configuration = answer["Configuration"]
        settings = {each: configuration[each] for each in ("Handler", "Timeout", "MemorySize")}
        settings["Environment"] = {"Variables": configuration["Environment"]["Variables"]}
        found[name] = (code, settings)
    return found


def put_back(pipeline: Pipeline, functions: dict[str, tuple[bytes, dict[str, Any]]]) -> None:
    client = pipeline.aws("lambda")
    for name, (code, settings) in functions.items():
        client.update_function_code(FunctionName=name, ZipFile=code)
        client.get_waiter("function_updated_v2").wait(FunctionName=name)
        client.update_function_configuration(FunctionName=name, **settings)
        client.get_waiter("function_updated_v2").wait(FunctionName=name)


def loaded(pipeline: Pipeline) -> int:
    [row] = pipeline.rows("SELECT COUNT(DISTINCT payload:_id) AS n FROM {db}.RAW.EVENTS")
    return int(row["n"])


def columns_of_marts(pipeline: Pipeline) -> dict[str, list[str]]:
    """Return the columns of each table and view in STAGING and MARTS, by table or view name."""
    found: dict[str, list[str]] = {}
    for row in pipeline.rows(
        "SELECT table_schema || '.' || table_name AS name, column_name FROM {db}.INFORMATION_SCHEMA.COLUMNS "
        "WHERE table_schema IN ('STAGING', 'MARTS') ORDER BY name, ordinal_position"
    ):
        found.setdefault(row["name"], []).append(row["column_name"])
    return found


def contents(pipeline: Pipeline, columns: Mapping[str, Sequence[str]]) -> dict[str, Counter[str]]:
    """Return how often each row occurs in each of these tables and views, by table or view name."""
    return {
        name: Counter(str(row) for row in pipeline.rows(f"SELECT {', '.join(listed)} FROM {{db}}.{name}"))
        for name, listed in columns.items()
    }


def stays(pipeline: Pipeline) -> dict[str, list[tuple[object, ...]]]:
    """Return the first two visits of each truck in DynamoDB as (fence, start, end)."""
    return {
        truck: [(stay.fence, stay.entered_at, stay.exited_at) for stay in pipeline.visits_of(truck)][:2]
        for truck in TRUCKS
    }


def kept(pipeline: Pipeline) -> dict[str, object]:
    """Return the values that a deployment must not change: the app's address and key, the stores, and the objects."""
    outputs = pipeline.outputs
    stream = pipeline.aws("kinesis").describe_stream_summary(StreamName=outputs.stream)
    table = pipeline.aws("dynamodb").describe_table(TableName=outputs.visits_table)["Table"]
    resources = pipeline.aws("cloudformation").describe_stack_resources(StackName=deploy.STACK_NAME)
    objects = pipeline.aws("s3").list_object_versions(Bucket=outputs.bucket, Prefix="events/")
    return {
        "endpoint": outputs.endpoint,
        "key": outputs.api_key,
        # CloudFormation replaces a resource that gets another logical id, even if its name stays.
        "resources": {
            each["LogicalResourceId"]: each["PhysicalResourceId"]
            for each in resources["StackResources"]
            if each["ResourceType"] in LASTING
        },
        "stream": stream["StreamDescriptionSummary"]["StreamCreationTimestamp"],
        "table": table["CreationDateTime"],
        "queues": (outputs.redrive_queue_url, outputs.dead_letter_queue_url),
        "objects": Counter(version["Key"] for version in objects["Versions"]),
    }
