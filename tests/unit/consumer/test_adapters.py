"""Test how the adapters for DynamoDB, EventBridge and S3 handle calls that fail completely or in part."""

from urllib.parse import unquote

import pytest

from aws import retry
from aws.archive import Archive
from aws.credentials import FixedCredentials
from aws.errors import NoResponseError, PermanentError, ServiceError
from aws.table import Table, dumped
from consumer.consume import Poison
from consumer.event_bus import EventBus
from consumer.notifications import Notification
from consumer.quarantine import S3SetAside
from consumer.records import records_of
from contract.events import Reason
from contract.logs import LoggableError
from tests.unit.aws.strict import strict_service

from .fakes import Inline
from .strategies import batch_of

CREDENTIALS = FixedCredentials("AKID", "secret/+", "token==")
KEYS = [("p", f"{n:03}") for n in range(150)]


def error(code: str) -> Exception:
    if code == "ValidationException":
        return PermanentError(f"DynamoDB: {code}", "no")
    return ServiceError("DynamoDB", code, 400)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(retry, "PAUSES_SECONDS", (0.0, 0.0, 0.0))


class DynamoDB:
    """A fake DynamoDB. `decide` returns the keys that a call leaves unprocessed, or raises an error."""

    def __init__(self, decide):
        self.decide, self.found, self.consistent, self.calls = decide, [], True, []

    def batch_get_item(self, RequestItems):
        ((name, asked),) = RequestItems.items()
        self.consistent = asked["ConsistentRead"]
        keys = [k["sk"]["S"] for k in asked["Keys"]]
        self.calls.append(keys)
        undone = self.decide(self, keys)
        found = [dumped({"pk": "p", "sk": k, "version": 1}) for k in keys if k not in undone]
        self.found += [item["sk"]["S"] for item in found]
        left = {name: {"Keys": [{"pk": {"S": "p"}, "sk": {"S": k}} for k in undone]}} if undone else {}
        return {"Responses": {name: found}, "UnprocessedKeys": left}


def table(decide) -> tuple[Table, DynamoDB]:
    dynamodb = DynamoDB(decide)
    return Table(dynamodb, "visits", Inline()), dynamodb


def test_unprocessed_keys_of_a_batch_read_are_requested_again():
    found, dynamodb = table(lambda db, keys: keys[20:] if len(db.calls) <= 3 else [])
    items, failures = found.get(KEYS)
    assert (sorted(items), failures) == (KEYS, {})
    assert sorted(dynamodb.found) == [sk for _, sk in KEYS]
    assert max(map(len, dynamodb.calls)) == 100


def test_keys_that_a_batch_read_never_processes_are_returned_as_failures():
    found, _ = table(lambda db, keys: [k for k in keys if k == "007"])
    items, failures = found.get(KEYS)
    assert {key: str(e) for key, e in failures.items()} == {
        ("p", "007"): "DynamoDB throttled or failed all attempts"
    }
    assert len(items) == 149


def test_batch_with_an_invalid_key_is_halved_until_the_key_is_found():
    def decide(db, keys):
        if "031" in keys:
            raise error("ValidationException")
        return []

    found, dynamodb = table(decide)
    items, failures = found.get(KEYS)
    assert {key: type(e) for key, e in failures.items()} == {("p", "031"): PermanentError}
    assert len(items) == 149
    assert len(dynamodb.calls) < 20


def test_throttled_batch_read_fails_only_for_the_keys_in_that_batch():
    def decide(db, keys):
        if "000" in keys:
            raise error("ThrottlingException")
        return []

    items, failures = table(decide)[0].get(KEYS)
    assert (len(failures), len(items)) == (100, 50)


@pytest.mark.parametrize("consistent", [True, False])
def test_batch_read_uses_the_requested_consistency(consistent):
    found, dynamodb = table(lambda db, keys: [])
    found.get(KEYS[:1], consistent=consistent)
    assert dynamodb.consistent is consistent


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


def test_only_entries_that_the_bus_rejected_are_resent():
    events = Events(
        lambda bus, entry: len(bus.calls) == 1 and entry["Detail"] in ('{"id":"3"}', '{"id":"7"}')
    )
    assert EventBus(events, "bus", Inline()).publish(NOTICES) == {}
    assert [len(call) for call in events.calls] == [10, 2, 10, 3]
    assert events.calls[1] == ['{"id":"3"}', '{"id":"7"}']


def test_entries_that_the_bus_always_rejects_are_returned_as_failures():
    events = Events(lambda e, entry: entry["Detail"] == '{"id":"7"}')
    [(failed, failure)] = EventBus(events, "bus", Inline()).publish(NOTICES).items()
    assert (failed, str(failure)) == ("7", "EventBridge throttled or failed all attempts")
    assert isinstance(failure, LoggableError)  # only then is its message logged


def test_all_notifications_fail_if_the_bus_is_unreachable():
    class Down:
        def put_events(self, Entries):
            raise NoResponseError("EventBridge: TimeoutError")

    assert len(EventBus(Down(), "bus", Inline()).publish(NOTICES)) == 23


POISON = [Poison(r, (Reason("not_json", "", "no"),)) for r in records_of(batch_of([b"no"]))]


def test_poison_records_of_a_repeated_batch_are_quarantined_in_one_object():
    with strict_service() as s3:
        archive = Archive("bucket", region="eu-west-1", credentials=CREDENTIALS, url=s3.url)
        key = S3SetAside(archive).keep(POISON)
        s3.answers = [(412, b"")]
        assert S3SetAside(archive).keep(POISON) == key
    assert {(unquote(path), headers["if-none-match"]) for _, path, headers, _ in s3.requests} == {
        (f"/bucket/{key}", "*")
    }


def test_quarantine_raises_an_error_if_its_object_cannot_be_stored():
    with strict_service() as s3:
        s3.answers = [(403, b"<Error><Code>AccessDenied</Code></Error>")]
        archive = Archive("bucket", region="eu-west-1", credentials=CREDENTIALS, url=s3.url)
        with pytest.raises(ServiceError):
            S3SetAside(archive).keep(POISON)
