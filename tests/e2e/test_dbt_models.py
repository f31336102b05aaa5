"""Test that the dbt models agree with the consumer's visit rule, with plain SQL and with SQLite on random events.

dbt runs several times on a local Snowflake that loads the events through Snowpipe.
"""

import json
import math
import random
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from consumer.visits import visits_of
from contract.event_rules import check, geofence_event
from contract.events import GeofenceEvent
from contract.geofence_event_types import GEOFENCE_KINDS
from handler.parse_body import parse_body
from handler.validate import validate
from local_snowflake.testing import Aws, LocalProcess, eventually
from snowpipe.run_dbt import DBT
from tests.e2e.pipeline import Event
from tests.e2e.test_warehouse import MORNING, event
from tests.unit.contract.instants import ACCEPTED, REJECTED
from tests.unit.snowpipe.warehouse_stage import Stage

pytestmark = pytest.mark.slow  # dbt runs three times before the first test
SQL = Path(__file__).parents[2] / "snowpipe" / "sql"


def crossing(id_: str, kind: str, at: datetime, device: str, fence: str = "farm-1", **more: object) -> Event:
    verb = {"enter": "entered", "dwell": "dwelled_in", "exit": "exited"}[kind]
    geofence = {"tag": "farm", "externalId": fence}
    return event(
        id_, f"user.{verb}_geofence", at, geofence=geofence, user={"deviceId": device, "userId": "d"}, **more
    )


@dataclass
class Built:
    stage: Stage
    lines: dict[int, list[bytes]]
    after_half: list[dict[str, object]]
    keys: dict[str, str]


def random_crossings(seed: int) -> list[bytes]:
    """Return random geofence events, which are meant to cover every branch of the visit rule. They include equal
    times, gaps as long as the merge gap, repeated events, and events that share an id but differ in content.
    """
    rng = random.Random(seed)
    lines = []
    for number in range(40):
        device, fence = f"random-{seed}-{number // 2}", f"f-{number % 2}"
        at = MORNING + timedelta(minutes=rng.randrange(500), microseconds=rng.randrange(10**6))
        for step in range(rng.randrange(1, 14)):
            at += rng.choice(
                [
                    timedelta(0),
                    timedelta(seconds=120),
                    timedelta(seconds=120, microseconds=1),
                    timedelta(seconds=rng.uniform(0, 300)),
                    timedelta(hours=1),
                ]
            )
            kind = rng.choice(["enter", "enter", "exit", "exit", "dwell"])
            id_ = f"{seed}-{number}-{rng.randrange(12) if rng.random() < 0.3 else step}"
            made = crossing(id_, kind, at, device, fence)
            if rng.random() < 0.5:
                made["confidence"] = rng.randrange(4)
            if rng.random() < 0.5:
                made["duration"] = rng.choice([0, 1, 1.5, rng.uniform(0, 100)])
            if rng.random() < 0.3:
                made["type"] = made["type"].replace("user.", "user_")
            if rng.random() < 0.3:
                made["createdAt"] = at.astimezone(_zone(rng)).isoformat(timespec="microseconds")
            if rng.random() < 0.2:
                # nanoseconds, which are truncated
                made["createdAt"] = made["createdAt"].replace("+00:00", "999Z")
            if rng.random() < 0.1:
                made["createdAt"] = made["createdAt"].lower()
            if rng.random() < 0.2:
                made["deviceId"] = made.pop("user")["deviceId"]
            lines.append(json.dumps(made).encode())
            if rng.random() < 0.2:
                lines.append(lines[-1])
    rng.shuffle(lines)
    return lines


def _zone(rng: random.Random) -> object:
    from datetime import timezone

    return timezone(timedelta(minutes=rng.choice([-570, -60, 120, 345])))


LATE_ENTER = crossing("late-enter", "enter", MORNING, "van-late")
LATE_EXIT = crossing("late-exit", "exit", MORNING + timedelta(minutes=20), "van-late")
NEXT_ENTER = crossing("next-enter", "enter", MORNING + timedelta(hours=2), "van-late")
BETWEEN = crossing("between", "enter", MORNING, "van-between")
GHOST = crossing("ghost", "enter", MORNING + timedelta(minutes=1), "van-ghost")
PICKUP = event(
    "pickup", "pickup.completed", MORNING + timedelta(minutes=10),
    user={"deviceId": "van-late"}, metadata={"litres": 812.5},
)  # fmt: skip
# Another device used the id of van-late's pickup before that pickup was sent.
FORGED = PICKUP | {"user": {"deviceId": "van-thief"}, "metadata": {"litres": 1}}

# The time at which all objects under events/ are received. It is a full hour, because dbt reads only the hour from an
# object's key, and it is so early that no event is too old.
RECEIVED = datetime(2026, 11, 28, 12, tzinfo=UTC)
FORMS = [event(f"form-{n}", createdAt=text, actualCreatedAt=text) for n, (text, _) in enumerate(ACCEPTED)]

# Lines of an object that an operator put under events/ by hand, and the reason why each line is invalid
BY_HAND = [
    (b'[{"_id":"man-2","type":"x","deviceId":"man-dev","createdAt":"2026-11-28T12:54:50Z"}]', "not_an_object"),
    (b"null", "not_an_object"),
    (b"5", "not_an_object"),
    (b'"x"', "not_an_object"),
    (b"{}", "missing_id"),
    (b'{"_id":null,"type":"x","deviceId":"d","createdAt":"2026-11-28T12:54:50Z"}', "missing_id"),
    (b'{"_id":7,"type":"x","deviceId":"d","createdAt":"2026-11-28T12:54:50Z"}', "wrong_type"),
    (b'{"_id":"","type":"x","deviceId":"d","createdAt":"2026-11-28T12:54:50Z"}', "field_length"),
    (b'{"_id":"h1","deviceId":"d","createdAt":"2026-11-28T12:54:50Z"}', "missing_type"),
    (b'{"_id":"h2","type":"x","deviceId":"d"}', "missing_created_at"),
    (b'{"_id":"h3","type":"x","createdAt":"2026-11-28T12:54:50Z"}', "missing_identity"),
    (b'{"_id":"h4","type":"user.entered_geofence","createdAt":"2026-11-28T12:54:50Z"}', "missing_device"),
    (
        b'{"_id":"h5","type":"user.entered_geofence","deviceId":"d","createdAt":"2026-11-28T12:54:50Z"}',
        "missing_geofence",
    ),
    *((json.dumps(event(f"h-{n}", createdAt=text)).encode(), "invalid_created_at") for n, (text, _) in
      enumerate(REJECTED) if text[:4] not in ("0000", "0001", "9999")),
    *((json.dumps(event(f"h-{text}", createdAt=text)).encode(), code) for text, code in [
        ("0000-11-28T13:00:00Z", "created_at_too_old"),
        ("0001-01-01T00:00:00+10:00", "created_at_too_old"),
        ("9999-12-31T23:59:59-10:00", "created_at_in_future"),
    ]),
    *((json.dumps(crossing(f"h-{at:%Y%m%d}", "enter", at, "van-clock")).encode(), code) for at, code in [
        (datetime(8, 11, 28, 8, tzinfo=UTC), "created_at_too_old"),
        (datetime(1, 1, 1, tzinfo=UTC), "created_at_too_old"),
        (RECEIVED - timedelta(days=400, microseconds=1), "created_at_too_old"),
        (RECEIVED + timedelta(hours=25, microseconds=1), "created_at_in_future"),
        (datetime(9999, 12, 31, tzinfo=UTC), "created_at_in_future"),
    ]),
]  # fmt: skip
AT_THE_EDGE = [
    crossing("oldest", "enter", RECEIVED - timedelta(days=400), "van-clock"),
    crossing("newest", "exit", RECEIVED + timedelta(hours=25), "van-clock", duration=1e308),
]
# Models that a full refresh must reproduce; the others contain the state of one run.
LASTING_MODELS = [
    *(f"STAGING.{name}" for name in ("TYPED_EVENTS", "STG_EVENTS", "EVENT_CONFLICTS", "STG_GEOFENCE_EVENTS")),
    *(f"STAGING.{name}" for name in ("STG_REJECTED_EVENTS", "INVALID_ROWS", "GEOFENCE_PAIR_DAYS")),
    *(f"MARTS.{name}" for name in ("GEOFENCE_VISITS", "GEOFENCE_PAIRS", "DAILY_FARM_COLLECTIONS")),
    *(f"MARTS.{name}" for name in ("FLEET_DAILY", "INGEST_QUALITY")),
]
NO_REJECTS = [b'{"hello":1}', b"[]", b'{"reasons":[]}']

NO_LITRES = ["NaN", "inf", "-inf", -5, "-5", 1e300, None, [812.5], "1,5", "1_5", "0x1F"]
# Two positions 11 km apart without a geofence event, as the handler stores them
PINGS = [
    {"deviceId": "van-ping", "latitude": latitude, "longitude": 5.8, "accuracy": 8.5, "_id": f"ping-{latitude}",
     "updatedAt": at, "type": "location.ping", "createdAt": at}
    for latitude, at in ((53.2, "2026-11-16T08:00:00.123+0000"), (53.3, "2026-11-16T08:10:00.123+0000"))
]  # fmt: skip


def hostile_events(seed: int) -> list[bytes]:
    """Return events that the handler accepts, with strings and numbers that database engines are known to read
    differently.
    """
    rng = random.Random(seed)
    texts = ["a", "a\0", "a\0b", "A", "a ", " a", "e\u0301", "\u00e9", "'", '"', "\\", "%", "_", "\U0001f69a"]
    texts += [
        "\u2028",
        "\uffff",
        "NULL",
        "null",
        "NaN",
        "1,5",
        "1e5",
        "\u0663",
        "\t",
        "\x7f",
        "\u0130",
        "\u00df",
        "--",
    ]
    numbers: list[object] = [
        "1,5",
        "1_000",
        " 5",
        "5 ",
        "5\n",
        "\u0663",
        "0x1F",
        "1e3",
        "1E+3",
        ".5",
        "5.",
        "+5",
        "-0",
    ]
    numbers += [
        "--5",
        "1e999",
        "1e-400",
        "Infinity",
        "nan",
        "",
        "1\0",
        "1.000.000",
        "5e",
        "1e5.5",
        True,
        False,
        None,
    ]
    numbers += [[5], {"a": 5}, 5, 5.5, 1e6, 1_000_000.5, -0.0, 1e308, 10**300, 0.1, -1, 1e-320]
    durations = [None, 0, -1, -0.0, 2.5, 1e308, -1e308, 576_000, 576_000.5, 10**300]
    truths = [
        True,
        False,
        None,
        1,
        0,
        1.0,
        5,
        "TRUE",
        "yes",
        "On",
        "on ",
        "\u212a",
        "0",
        "off",
        [True],
        "1\0",
    ]
    events = []
    for number in range(500):
        at = MORNING + timedelta(minutes=rng.randrange(24 * 60), microseconds=rng.randrange(10**6))
        device, id_ = rng.choice(texts), f"hostile-{rng.choice(texts)}-{number % 350}"
        kind = rng.choice(["enter", "exit", "dwell", "pickup", "pickup"])
        if kind == "pickup":
            made = event(id_, "pickup.completed", at, user={"deviceId": device})
            made["metadata"] = rng.choice(
                [{"litres": rng.choice(numbers)}] * 9 + [None, [], "x", {"litres.x": 5}]
            )
        else:
            made = crossing(id_, kind, at, device, rng.choice(texts), duration=rng.choice(durations),
                            confidence=rng.choice([None, 0, 3, 2.0]))  # fmt: skip
            made["geofence"]["tag"] = "stop"
        made["replayed"] = rng.choice(truths)
        made["createdAt"] = rng.choice(
            [made["createdAt"], f"{at:%Y-%m-%d %H:%M:%S},5 +0000", f"{at:%Y-%m-%dT%H:%MZ}"]
        )
        if rng.random() < 0.2:
            made["deviceId"], made["user"] = device, None
        events.append(made)
    batch = validate(parse_body(json.dumps(events[:500]).encode(), "json"), "json", GEOFENCE_KINDS, RECEIVED)
    assert not batch.rejected
    return batch.lines


@pytest.fixture(scope="module")
def built(aws: Aws, local: LocalProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    if not DBT.exists():
        pytest.fail(f"{DBT} does not exist: run make setup")
    stage = Stage(tmp_path_factory.mktemp("dbt"), local, aws)
    stage.done("apply")
    stage.done("dbt", "--quiet", "run")
    first, second, hostile = random_crossings(1), random_crossings(2), hostile_events(3)
    half = first[: len(first) // 2]
    keys = {}
    earlier = [event("sent-twice", at=MORNING), LATE_ENTER, NEXT_ENTER, GHOST, FORGED]
    keys["earlier"] = stage.put([*half, *earlier], received_at=RECEIVED)
    keys["rejected"] = stage.put(
        [
            {"reasons": [{"code": "missing_id", "field": "_id", "message": "m"}], "index": 0,
             "event_id": None, "event": {"type": "x"}, "app_version": "4.2"},
            {"reasons": [{"code": "not_json", "field": "", "message": "m"}], "body_base64": "eA==",
             "content_type": None, "content_encoding": None},
        ],
        "rejected",
    )  # fmt: skip
    keys["by hand"] = f"events/dt={RECEIVED:%Y-%m-%d}/hh=12/by-hand.ndjson"
    keys["no rejects"] = "rejected/by-hand.ndjson"
    for key, lines in (("by hand", [line for line, _ in BY_HAND]), ("no rejects", NO_REJECTS)):
        body = b"\xef\xbb\xbf" + b"\r\n".join(lines)
        stage.aws.s3.put_object(Bucket=stage.bucket, Key=keys[key], Body=body)
    stage.loaded([keys["earlier"], keys["by hand"]])
    stage.loaded([keys["rejected"], keys["no rejects"]], "RAW.REJECTED")
    with local.days_later(1):  # so that the later run does not read the earlier rows again
        stage.loaded([stage.put([BETWEEN], received_at=RECEIVED)])
    stage.done("dbt", "--quiet", "run")
    after_half = _visits(stage)
    # S3's times are in whole seconds, so wait for the next second. Otherwise, the later objects would not be newer.
    eventually(
        lambda: datetime.now(UTC).replace(microsecond=0), lambda now: now > _second_of(stage, keys["earlier"])
    )
    turned = GHOST | {"type": "user.exited_geofence", "createdAt": MORNING.isoformat()}
    later = [
        event("sent-twice", at=MORNING, metadata={"other": True}),
        event("sent-twice", at=MORNING),
        LATE_EXIT,
        LATE_ENTER,
        turned,
        PICKUP,
        *(PICKUP | {"_id": f"pickup-{n}", "metadata": {"litres": said}} for n, said in enumerate(NO_LITRES)),
        *AT_THE_EDGE,
        *PINGS,
        *FORMS,
        *(event(f"replayed-{n}", replayed=said) for n, said in enumerate([True, "true", 1, 5, "no", None])),
    ]
    with local.days_later(2):
        keys["later"] = stage.put([*first[len(half) :], *second, *later, *hostile], received_at=RECEIVED)
        again = [event("sent-twice", at=MORNING, metadata={"other": True}), PICKUP]
        keys["later-again"] = stage.put(again, received_at=RECEIVED)
        stage.loaded([keys["later"], keys["later-again"]])
    stage.done("dbt", "--quiet", "build")
    lines = {1: [json.dumps(e).encode() for e in [*earlier, BETWEEN]] + half}
    lines[2] = [*first, *second, *hostile, *(json.dumps(e).encode() for e in [*earlier, BETWEEN, *later])]
    yield Built(stage, lines, after_half, keys)
    stage.close()


def _second_of(stage: Stage, key: str) -> datetime:
    return stage.aws.s3.head_object(Bucket=stage.bucket, Key=key)["LastModified"]


def _visits(stage: Stage) -> list[dict[str, object]]:
    return stage.query(f"SELECT * FROM {stage.database}.MARTS.GEOFENCE_VISITS")


def geofence_events(lines: list[bytes]) -> list[GeofenceEvent]:
    return [geofence_event(line) for line in lines if b"_geofence" in line]


def by_the_rule(lines: list[bytes]) -> set[tuple[object, ...]]:
    return {
        (pair.device_id, *pair.fence, visit.entered_at, visit.entered_event_id, visit.exited_at,
         visit.exited_event_id, visit.exit_missed, visit.is_open, visit.last_seen_at,
         visit.dwell_seconds, visit.app_dwell_seconds)
        for pair, history in visits_of(geofence_events(lines)).items()
        for visit in history.visits
    }  # fmt: skip


def by_the_mart(rows: list[dict[str, object]]) -> set[tuple[object, ...]]:
    def utc(at: datetime | None) -> datetime | None:
        return at and at.replace(tzinfo=UTC)

    def number(seconds: Decimal | None) -> float | None:
        """Convert dwell seconds to a float. They are a quotient of two NUMBERs, which in Snowflake is a NUMBER
        ("Arithmetic operators"), so the connector returns a Decimal.
        """
        return None if seconds is None else float(seconds)

    return {
        (row["device_id"], row["geofence_tag"], row["geofence_external_id"], utc(row["entered_at"]),
         row["entered_event_id"], utc(row["exited_at"]), row["exited_event_id"], row["exit_missed"],
         row["is_there_now"], utc(row["last_seen_at"]), number(row["dwell_seconds"]), row["app_dwell_seconds"])
        for row in rows
    }  # fmt: skip


def test_dbt_and_the_consumer_derive_the_same_visits_from_random_events(built: Built) -> None:
    assert by_the_mart(built.after_half) == by_the_rule(built.lines[1])
    found = _visits(built.stage)
    assert by_the_mart(found) == by_the_rule(built.lines[2])
    assert len(found) == len(by_the_mart(found)) > 100


def test_dbt_docs_are_generated_and_every_model_states_its_grain(built: Built) -> None:
    built.stage.done("dbt", "--quiet", "docs", "generate")
    target = built.stage.folder / "dbt" / "target"
    catalog, manifest = (
        json.loads((target / f"{name}.json").read_text()) for name in ("catalog", "manifest")
    )
    models = {name: node for name, node in manifest["nodes"].items() if node["resource_type"] == "model"}
    assert catalog["errors"] is None
    assert set(models) == set(catalog["nodes"])
    assert all("row per" in " ".join(node["description"].lower().split()) for node in models.values())


def test_dbt_and_the_consumer_count_the_same_orphan_exits(built: Built) -> None:
    rows = built.stage.query(f"SELECT * FROM {built.stage.database}.MARTS.GEOFENCE_PAIRS")
    found = {
        (row["device_id"], row["geofence_tag"], row["geofence_external_id"]): int(row["orphan_exits"])
        for row in rows
    }
    histories = visits_of(geofence_events(built.lines[2]))
    assert found == {
        (pair.device_id, *pair.fence): history.orphan_exits for pair, history in histories.items()
    }


def test_late_event_restates_the_visits_it_changes(built: Built) -> None:
    before = {row["entered_event_id"]: row for row in built.after_half if row["device_id"] == "van-late"}
    after = {row["entered_event_id"]: row for row in _visits(built.stage) if row["device_id"] == "van-late"}
    assert before["late-enter"]["exit_missed"]
    assert not after["late-enter"]["exit_missed"]
    assert after["late-enter"]["exited_event_id"] == "late-exit"
    assert float(after["late-enter"]["dwell_seconds"]) == 1200
    assert after["next-enter"]["is_there_now"]


def test_visit_disappears_if_its_enter_event_is_replaced_by_an_exit(built: Built) -> None:
    assert [row for row in built.after_half if row["device_id"] == "van-ghost"]
    assert not [row for row in _visits(built.stage) if row["device_id"] == "van-ghost"]


def test_event_is_staged_once_and_deliveries_with_different_content_are_listed_as_conflicts(
    built: Built,
) -> None:
    stage = built.stage
    (kept,) = stage.query(f"SELECT * FROM {stage.database}.STAGING.STG_EVENTS WHERE EVENT_ID = 'sent-twice'")
    assert kept["file_name"] == built.keys["earlier"]
    (conflict,) = stage.query(
        f"SELECT * FROM {stage.database}.STAGING.EVENT_CONFLICTS WHERE EVENT_ID = 'sent-twice'"
    )
    assert json.loads(conflict["payload"])["metadata"] == {"other": True}
    assert conflict["deliveries"] == 2
    assert conflict["kept_file_name"] == built.keys["earlier"]
    repeated = stage.query(
        f"SELECT * FROM {stage.database}.STAGING.EVENT_CONFLICTS WHERE EVENT_ID = 'pickup'"
    )
    assert repeated == []


def test_staging_has_one_row_per_event_key_defined_by_the_contract(built: Built) -> None:
    stage = built.stage
    rows = stage.query(f"SELECT EVENT_KEY FROM {stage.database}.STAGING.STG_EVENTS")
    keys = {check(json.loads(line)).owned.event_key for line in built.lines[2]}
    assert sorted(row["event_key"] for row in rows) == sorted(keys)


def test_event_id_used_by_two_devices_is_stored_once_per_device(built: Built) -> None:
    stage = built.stage
    rows = stage.query(f"SELECT * FROM {stage.database}.STAGING.STG_EVENTS WHERE EVENT_ID = 'pickup'")
    litres = {row["device_id"]: json.loads(row["metadata"])["litres"] for row in rows}
    assert litres == {"van-late": 812.5, "van-thief": 1}


def test_warehouse_parses_every_accepted_time_format_correctly(built: Built) -> None:
    rows = built.stage.query(
        f"SELECT EVENT_ID, OCCURRED_AT, APP_SERVER_CREATED_AT FROM {built.stage.database}.STAGING.STG_EVENTS "
        "WHERE EVENT_ID LIKE 'form-%'"
    )
    found = {row["event_id"]: (row["occurred_at"], row["app_server_created_at"]) for row in rows}
    meant = [datetime.fromisoformat(utc) for _, utc in ACCEPTED]
    assert found == {f"form-{n}": (at, at) for n, at in enumerate(meant)}


def test_ping_positions_count_towards_the_devices_kilometres(built: Built) -> None:
    stage = built.stage
    staged = stage.query(
        f"SELECT LATITUDE, LONGITUDE, LOCATION_ACCURACY_METRES FROM {stage.database}.STAGING.STG_EVENTS "
        "WHERE EVENT_TYPE = 'location.ping' ORDER BY LATITUDE"
    )
    assert [tuple(map(float, row.values())) for row in staged] == [(53.2, 5.8, 8.5), (53.3, 5.8, 8.5)]
    [day] = stage.query(f"SELECT * FROM {stage.database}.MARTS.FLEET_DAILY WHERE DEVICE_ID = 'van-ping'")
    assert day["events"] == 2
    assert 11 < float(day["kilometres"]) < 11.3
    visits = stage.query(f"SELECT 1 FROM {stage.database}.MARTS.GEOFENCE_VISITS WHERE DEVICE_ID = 'van-ping'")
    assert visits == []


def test_invalid_rows_are_listed_with_reasons_and_excluded_from_models(
    built: Built,
) -> None:
    stage = built.stage
    rows = stage.query(f"SELECT * FROM {stage.database}.STAGING.INVALID_ROWS ORDER BY FILE_ROW_NUMBER")
    events = [row for row in rows if row["source_table"] == "events"]
    assert {row["file_name"] for row in events} == {built.keys["by hand"]}
    assert [(row["file_row_number"], row["code"]) for row in events] == [
        (line, code) for line, (_, code) in enumerate(BY_HAND, 1)
    ]
    rejects = [row for row in rows if row["source_table"] == "rejected"]
    assert [(row["file_name"], row["code"]) for row in rejects] == [
        (built.keys["no rejects"], "not_a_reject")
    ] * 3
    for model in ("STG_EVENTS", "STG_GEOFENCE_EVENTS", "EVENT_CONFLICTS"):
        assert stage.query(f"SELECT 1 FROM {stage.database}.STAGING.{model} WHERE EVENT_ID IS NULL") == []
    assert stage.query(f"SELECT 1 FROM {stage.database}.STAGING.STG_REJECTED_EVENTS WHERE CODE IS NULL") == []


def test_marts_stay_finite_despite_extreme_numbers_from_phones(built: Built) -> None:
    for mart in ("GEOFENCE_VISITS", "DAILY_FARM_COLLECTIONS", "FLEET_DAILY", "INGEST_QUALITY"):
        for row in built.stage.query(f"SELECT * FROM {built.stage.database}.MARTS.{mart}"):
            assert all(math.isfinite(value) for value in row.values() if isinstance(value, float)), row
    (average,) = built.stage.query(
        f"SELECT AVG(APP_DWELL_SECONDS) AS A, MAX(DWELL_SECONDS) AS B FROM {built.stage.database}.MARTS.GEOFENCE_VISITS"
    )
    assert average["a"] < 576_000 * 60
    assert average["b"] == timedelta(days=401, hours=1).total_seconds()


def test_ingest_quality_counts_events_conflicts_and_rejects(built: Built) -> None:
    stage = built.stage
    rows = stage.query(f"SELECT * FROM {stage.database}.MARTS.INGEST_QUALITY")
    rejected = {
        (row["code"], row["app_version"]): row["events"] for row in rows if row["outcome"] == "rejected"
    }
    assert rejected == {("missing_id", "4.2"): 1, ("not_json", ""): 1}
    accepted = [row for row in rows if row["outcome"] == "accepted"]
    assert sum(row["events"] for row in accepted) == stage.count("STAGING.STG_EVENTS")
    assert sum(row["deliveries"] for row in accepted) == stage.count() - len(BY_HAND)
    invalid = {row["code"]: row["events"] for row in rows if row["outcome"] == "invalid"}
    assert invalid == {**Counter(code for _, code in BY_HAND), "not_a_reject": len(NO_REJECTS)}
    assert sum(row["conflicts"] for row in accepted) == stage.count("STAGING.EVENT_CONFLICTS") > 0


def test_mart_plain_sql_and_sqlite_agree_on_farm_collections(built: Built, tmp_path: Path) -> None:
    columns = ["visits", "devices", "pickups", "litres", "dwell_seconds", "missed_exits", "open_visits"]
    key = ["collection_date", "geofence_tag", "geofence_external_id"]
    mart, plain, small = _three_ways(built, tmp_path, "daily_farm_collections", key, columns)
    assert mart == plain == small
    farms = [row for key, row in mart.items() if key[1] == "farm"]
    assert sum(row[2] for row in farms) == 1 + len(NO_LITRES)
    # In addition, `dbt build` passed, which tests for negative litres.
    assert sum(row[3] for row in farms) == 812.5


def test_mart_plain_sql_and_sqlite_agree_on_daily_fleet_figures(built: Built, tmp_path: Path) -> None:
    columns = ["events", "replayed_events", "litres"]
    mart, plain, small = _three_ways(built, tmp_path, "fleet_daily", ["event_date", "device_id"], columns)
    assert mart == plain == small
    assert sum(row[1] for (_, device), row in mart.items() if device == "van-1") == 3


def _three_ways(
    built: Built, folder: Path, name: str, key: list[str], columns: list[str]
) -> list[dict[object, object]]:
    stage = built.stage
    mart = stage.query(f"SELECT * FROM {stage.database}.MARTS.{name}")
    stage.query(f"USE DATABASE {stage.database}")
    plain = stage.query((SQL / f"{name}.sql").read_text())
    path = folder / "events.db"
    stage.done("load", "--to", f"sqlite:///{path}", "--from", f"s3://{stage.bucket}/")
    with closing(sqlite3.connect(path)) as database:
        database.row_factory = sqlite3.Row
        small = [dict(row) for row in database.execute((SQL / f"{name}.sqlite.sql").read_text())]

    def keyed(rows: list[dict[str, object]]) -> dict[object, object]:
        return {
            tuple(str(row[k]) for k in key): tuple(round(float(row[c]), 5) for c in columns) for row in rows
        }

    return [keyed(mart), keyed(plain), keyed(small)]


def test_second_load_into_sqlite_adds_nothing_if_no_object_is_new(built: Built, tmp_path: Path) -> None:
    stage = built.stage
    to = ["load", "--to", f"sqlite:///{tmp_path}/events.db", "--json", "--from", f"s3://{stage.bucket}/"]
    assert stage.done(*to).rows[0]["lines"] == stage.count()
    assert stage.done(*to).rows == [{"objects": 0, "lines": 0, "left_out": []}]


@pytest.mark.timeout(900)  # because a full dbt run is slow on a busy machine
def test_full_refresh_produces_the_same_result_as_incremental_runs(built: Built) -> None:
    """tests/e2e/test_marts.py makes the same comparison for many random histories."""
    stage = built.stage

    def found() -> dict[str, Counter[str]]:
        return {
            model: Counter(
                json.dumps(_without_noise(row), default=str)
                for row in stage.query(f"SELECT * FROM {stage.database}.{model}")
            )
            for model in LASTING_MODELS
        }

    incremental = found()
    stage.done("dbt", "--quiet", "run", "--full-refresh")
    assert found() == incremental


def _without_noise(row: dict[str, object]) -> dict[str, object]:
    """Return the row without the values that may differ between runs.

    Sums are rounded, because they depend on the order of additions. `loaded_at` depends on which delivery was
    read first, and `read_through` identifies the run that added the row; both are dropped.
    """
    return {
        name: round(value, 5) if isinstance(value, float) else value
        for name, value in row.items()
        if name not in ("loaded_at", "read_through")
    }
