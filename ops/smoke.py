"""`milkrun smoke`: post one sample event and follow it to the warehouse.

`milkrun check-key` prints the SQL that allows the pipe check of a stage to sign in to Snowflake.
"""

import base64
import json
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated
from uuid import uuid4

import typer

from cli.counts import count
from cli.deadline import within
from contract.geofence_event_types import GEOFENCE_KINDS, Kind
from ops import polling, reachable_stores, terminal
from ops.post_to_endpoint import NoAnswerError, poster
from ops.read_stores import device_stays, geofence_kinds
from ops.stage_outputs import Outputs
from snowpipe.warehouse import Warehouse

FENCE = {"tag": "smoke", "externalId": "smoke"}


def event(device: str, kinds: Mapping[str, Kind] = GEOFENCE_KINDS) -> dict[str, object]:
    """Return an enter event of a new device at a fence that only this command uses, so that queries can exclude it.

    Its type is the first one that `kinds`, the stage's geofence event types, lists for entering.
    """
    now = datetime.now(UTC)
    entered = [name for name, kind in kinds.items() if kind == "enter"]
    return {
        "_id": uuid4().hex[:24],
        "type": entered[0] if entered else "user.entered_geofence",
        "createdAt": now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "live": False,
        "user": {"userId": "smoke", "deviceId": device},
        "geofence": FENCE,
        "confidence": 3,
    }


def follow(
    outputs: Outputs, unasked: dict[str, str], device: str, sent: dict[str, object], timeout_s: float
) -> Iterator[tuple[str, bool, str]]:
    """Yield, for each step, its name, whether the event reached it, and details.

    If Snowflake does not answer, the last step is omitted and the reason is added to `unasked`.
    """
    try:
        status, answer = poster(outputs)(json.dumps([sent], allow_nan=False).encode(), "application/json")
    except NoAnswerError as error:
        yield "accepted", False, str(error)
        return
    yield "accepted", status == 202, f"{status} {answer[:300].decode(errors='replace')}"
    key = json.loads(answer)["object_key"]
    # List the object's key, which contains a hash of the event, because GitHub's role may not read the object.
    found = outputs.aws("s3").list_objects_v2(Bucket=outputs.bucket, Prefix=key)
    yield "archived", found["KeyCount"] == 1, key
    dynamodb = outputs.aws("dynamodb")
    stays = polling.until(
        lambda: list(device_stays(dynamodb, outputs.visits_table, device)), bool, timeout_s=timeout_s
    )
    yield "consumed", bool(stays), f"{count(len(stays), 'visit')} in the visits table"
    sql = f"SELECT COUNT(*) AS n FROM {outputs.database}.RAW.EVENTS WHERE file_name = %s"

    def loaded(warehouse: Warehouse | None) -> int | None:
        if warehouse is None:
            return None
        return polling.until(
            lambda: int(warehouse.query(sql, [key])[0]["n"]), bool, timeout_s=timeout_s, every_s=1
        )

    rows = reachable_stores.with_or_without_warehouse(outputs, unasked, loaded)
    if rows is not None:
        yield "loaded", rows == 1, f"{count(rows, 'row')} in RAW.EVENTS"


def command(
    context: typer.Context,
    *,
    timeout_s: Annotated[
        float,
        typer.Option(
            "--timeout",
            "--patience",
            min=0,
            max=terminal.MAX_SECONDS,
            help="Timeout in seconds for each of the steps `consumed` and `loaded`.",
        ),
    ] = 120,
    stage: terminal.Stage = "local",
    as_json: terminal.AsJson = False,
) -> None:
    """Post one event to a stage and follow it to the warehouse.

    The exit code is 1 if a step fails or is not completed in time, or if Snowflake does not answer. It is 2,
    and nothing is posted, if S3, DynamoDB or Lambda does not answer.
    """
    outputs = terminal.outputs_of(context, stage)
    reachable_stores.require(outputs, "S3", "DynamoDB")
    device = f"smoke-{uuid4().hex[:12]}"
    # require(outputs, "Lambda") would list the account's functions, which GitHub's role may not.
    kinds = within(2 * reachable_stores.BUDGET_SECONDS, lambda: geofence_kinds(outputs, stage), "Lambda")
    sent, began, rows, unasked = event(device, kinds), time.monotonic(), [], dict[str, str]()
    steps = follow(outputs, unasked, device, sent, timeout_s)
    for step, seen, detail in terminal.counted(steps, "steps followed"):
        after = round(time.monotonic() - began, 1)
        rows.append({"step": step, "seen": seen, "after_seconds": after, "detail": detail})
        if not seen:
            break
    terminal.show_rows(rows, as_json, title=f"event {sent['_id']}")
    reachable_stores.tell(unasked)
    if unasked or not rows[-1]["seen"]:
        raise typer.Exit(1)


def check_key(context: typer.Context, *, stage: terminal.Stage = "local") -> None:
    """Print the SQL that creates the Snowflake user for the pipe check.

    The user gets the public key of the stage's pipe check and the role <DB>_WATCHER, which
    `milkrun warehouse apply` creates. Run the SQL with a role that may create users.
    """
    outputs = terminal.outputs_of(context, stage)
    stacks = outputs.aws("cloudformation").describe_stacks(StackName=f"milkrun-{stage}")["Stacks"]
    named = {o["OutputKey"]: o["OutputValue"] for o in stacks[0]["Outputs"]}
    public = outputs.aws("kms").get_public_key(KeyId=named["CheckKeyId"])["PublicKey"]
    database = outputs.database
    terminal.out.print(
        "\n".join(
            [
                f"CREATE USER IF NOT EXISTS {database}_WATCHER TYPE = SERVICE"
                f" DEFAULT_ROLE = {database}_WATCHER DEFAULT_WAREHOUSE = {outputs.snowflake.warehouse};",
                f"ALTER USER {database}_WATCHER SET RSA_PUBLIC_KEY = '{base64.b64encode(public).decode()}';",
                f"GRANT ROLE {database}_WATCHER TO USER {database}_WATCHER;",
            ]
        )
    )
