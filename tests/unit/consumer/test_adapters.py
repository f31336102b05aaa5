"""The ports on DynamoDB, EventBridge and S3, where those answer half a yes."""

from urllib.parse import unquote

import pytest

from aws import retry
from aws.archive import Archive
from aws.credentials import FixedCredentials
from aws.errors import NoResponseError, PermanentError, ServiceError
from aws.table import DynamoTable, dumped
from consumer.consume import Poison
from consumer.ports import EventBus, S3SetAside
from consumer.records import records_of
from consumer.visit_diff import Notification
from contract.events import Reason
from tests.unit.aws.strict import strict_service

from .fakes import Inline
from .strategies import batch_of

CREDENTIALS = FixedCredentials("AKID", "secret/+", "token==")
ITEMS = [{"pk": "p", "sk": f"{n:03}", "version": n} for n in range(60)]


def error(code: str) -> Exception:
    if code == "ValidationException":
        return PermanentError(f"DynamoDB: {code}", "no")
    return ServiceError("DynamoDB", code, 400)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(retry, "PAUSES_SECONDS", (0.0, 0.0, 0.0))


class DynamoDB:
    """Answers what `answers` says about each call: the keys it leaves undone, or an error it raises."""

    def __init__(self, decide):
        self.decide, self.put, self.calls = decide, [], []

    def batch_write_item(self, RequestItems):
        ((name, requests),) = RequestItems.items()
        keys = [r["PutRequest"]["Item"]["sk"]["S"] for r in requests]
        self.calls.append(keys)
        undone = self.decide(self, keys)
        self.put += [k for k in keys if k not in undone]
        left = [r for r in requests if r["PutRequest"]["Item"]["sk"]["S"] in undone]
        return {"UnprocessedItems": {name: left} if left else {}}

    def batch_get_item(self, RequestItems):
        ((name, asked),) = RequestItems.items()
        assert asked["ConsistentRead"]
        keys = [k["sk"]["S"] for k in asked["Keys"]]
        self.calls.append(keys)
        undone = self.decide(self, keys)
        found = [dumped({"pk": "p", "sk": k, "version": 1}) for k in keys if k not in undone]
        left = {name: {"Keys": [{"pk": {"S": "p"}, "sk": {"S": k}} for k in undone]}} if undone else {}
        return {"Responses": {name: found}, "UnprocessedKeys": left}


def table(decide) -> tuple[DynamoTable, DynamoDB]:
    dynamodb = DynamoDB(decide)
    return DynamoTable(dynamodb, "visits", Inline()), dynamodb


def test_what_a_batch_write_leaves_undone_is_sent_again_and_nothing_else():
    found, dynamodb = table(lambda db, keys: keys[20:] if len(db.calls) <= 3 else [])
    assert found.put_all(ITEMS) == {}
    assert sorted(dynamodb.put) == [i["sk"] for i in ITEMS]
    assert max(map(len, dynamodb.calls)) == 25


def test_what_stays_undone_is_named():
    found, _ = table(lambda db, keys: [k for k in keys if k == "007"])
    assert {key: type(e) for key, e in found.put_all(ITEMS).items()} == {("p", "007"): TimeoutError}


def test_a_refused_batch_is_halved_until_the_culprit_stands_alone():
    def decide(db, keys):
        if "031" in keys:
            raise error("ValidationException")
        return []

    found, dynamodb = table(decide)
    assert {key: type(e) for key, e in found.put_all(ITEMS).items()} == {("p", "031"): PermanentError}
    assert len(dynamodb.put) == 59


def test_any_other_error_is_the_failure_of_its_batch_only():
    def decide(db, keys):
        if "000" in keys:
            raise error("ThrottlingException")
        return []

    found, dynamodb = table(decide)
    failures = found.put_all(ITEMS)
    assert (len(failures), len(dynamodb.put)) == (25, 35)


def test_what_a_batch_read_leaves_undone_is_asked_again():
    found, _ = table(lambda db, keys: keys[1:] if len(keys) > 1 else [])
    items, failures = found.get([("p", "a"), ("p", "b"), ("p", "c")])
    assert (sorted(sk for _, sk in items), failures) == (["a", "b", "c"], {})


class Events:
    def __init__(self, refuse):
        self.refuse, self.calls = refuse, []

    def put_events(self, Entries):
        self.calls.append([e["Detail"] for e in Entries])
        results = [self.refuse(self, e) for e in Entries]
        return {
            "FailedEntryCount": sum(results),
            "Entries": [{"ErrorCode": "Throttled"} if r else {"EventId": "1"} for r in results],
        }


NOTICES = [Notification(str(n), "arrived", {"id": str(n)}) for n in range(23)]


def test_entries_that_the_bus_did_not_take_are_sent_again_alone():
    events = Events(
        lambda bus, entry: len(bus.calls) == 1 and entry["Detail"] in ('{"id":"3"}', '{"id":"7"}')
    )
    assert EventBus(events, "bus", Inline()).publish(NOTICES) == {}
    assert [len(call) for call in events.calls] == [10, 2, 10, 3]
    assert events.calls[1] == ['{"id":"3"}', '{"id":"7"}']


def test_entries_that_the_bus_never_takes_are_named():
    events = Events(lambda e, entry: entry["Detail"] == '{"id":"7"}')
    assert {i: type(e) for i, e in EventBus(events, "bus", Inline()).publish(NOTICES).items()} == {
        "7": TimeoutError
    }


def test_a_bus_that_is_down_fails_what_was_sent():
    class Down:
        def put_events(self, Entries):
            raise NoResponseError("EventBridge: TimeoutError")

    assert len(EventBus(Down(), "bus", Inline()).publish(NOTICES)) == 23


POISON = [Poison(r, (Reason("not_json", "", "no"),)) for r in records_of(batch_of([b"no"]))]


def test_poison_is_kept_in_one_object_per_batch_and_only_once():
    with strict_service() as s3:
        archive = Archive("bucket", region="eu-west-1", credentials=CREDENTIALS, url=s3.url)
        key = S3SetAside(archive).keep(POISON)
        s3.answers = [(412, b"")]
        assert S3SetAside(archive).keep(POISON) == key
    assert {(unquote(path), headers["if-none-match"]) for _, path, headers, _ in s3.requests} == {
        (f"/bucket/{key}", "*")
    }


def test_a_store_that_refuses_to_keep_poison_is_an_error():
    with strict_service() as s3:
        s3.answers = [(403, b"<Error><Code>AccessDenied</Code></Error>")]
        archive = Archive("bucket", region="eu-west-1", credentials=CREDENTIALS, url=s3.url)
        with pytest.raises(ServiceError):
            S3SetAside(archive).keep(POISON)
