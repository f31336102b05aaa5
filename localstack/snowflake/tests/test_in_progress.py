"""Test statements that run longer than the connector waits for a response."""

import asyncio
import json
from collections.abc import Callable

from local_snowflake.in_progress import IN_PROGRESS, Message, RunningStatements, Send
from local_snowflake.testing import LocalProcess

REQUEST = "0b3a6f6e-6d43-4ee0-93f5-21e6d9dbd0c1"


class Client:
    """A fake HTTP client that stays connected until the test sets `left`."""

    def __init__(self) -> None:
        self.received: list[Message] = []
        self.left = asyncio.Event()

    async def receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.received.append(message)

    @property
    def body(self) -> dict[str, object]:
        body: dict[str, object] = json.loads(self.received[-1]["body"])
        return body


class Insert:
    """A fake statement that runs until the test sets `may_end`. It counts how often it is executed."""

    def __init__(self) -> None:
        self.runs = 0
        self.may_end = asyncio.Event()

    async def __call__(self, send: Send) -> None:
        self.runs += 1
        await self.may_end.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b'{"data": {"inserted": 1}, "success": true}'})


def test_long_statement_is_answered_with_the_url_of_its_result() -> None:
    async def check() -> None:
        statements, insert, client = RunningStatements(answer_within=0.01), Insert(), Client()
        await statements.run("token", REQUEST, insert, client.receive, client.send)
        assert client.body["code"] == IN_PROGRESS
        assert client.body["data"] == {"getResultUrl": f"/queries/{REQUEST}/result"}
        insert.may_end.set()
        statements.answer_within = 60
        assert await statements.result("token", REQUEST, client.receive, client.send)
        assert (client.body["data"], insert.runs) == ({"inserted": 1}, 1)

    asyncio.run(check())


def test_repeated_request_receives_the_result_of_the_running_statement() -> None:
    async def check() -> None:
        statements, insert, first, second = RunningStatements(), Insert(), Client(), Client()
        given_up = asyncio.create_task(statements.run("token", REQUEST, insert, first.receive, first.send))
        first.left.set()
        await given_up
        insert.may_end.set()
        await statements.run("token", REQUEST, insert, second.receive, second.send)
        assert (first.received, second.body["data"], insert.runs) == ([], {"inserted": 1}, 1)

    asyncio.run(check())


def test_result_is_returned_only_to_the_session_of_its_statement_and_only_until_the_session_ends() -> None:
    async def check(end: Callable[[RunningStatements], None], token: str) -> None:
        statements, client = RunningStatements(answer_within=0.01), Client()
        await statements.run("token", REQUEST, Insert(), client.receive, client.send)
        end(statements)
        assert not await statements.result(token, REQUEST, client.receive, client.send)

    asyncio.run(check(lambda statements: None, "another token"))
    asyncio.run(check(lambda statements: statements.forget("token"), "token"))


def test_insert_is_executed_only_once_if_the_connector_stops_waiting(own_local: LocalProcess) -> None:
    own_local.start()
    with own_local.connect(database="D", schema="PUBLIC", socket_timeout=1) as connection:
        cursor = connection.cursor()
        cursor.execute("CREATE DATABASE D")
        cursor.execute("USE SCHEMA D.PUBLIC")
        cursor.execute("CREATE TABLE NUMBERS (N NUMBER)")
        cursor.execute("INSERT INTO NUMBERS VALUES " + ", ".join(f"({n})" for n in range(3000)))
        cursor.execute("CREATE TABLE SUMS (N NUMBER)")
        cursor.execute(
            "INSERT INTO SUMS SELECT SUM(A.N * B.N - C.N) FROM NUMBERS A CROSS JOIN NUMBERS B CROSS JOIN NUMBERS C"
            " WHERE C.N < 200"
        )
        assert cursor.execute("SELECT COUNT(*) FROM SUMS").fetchall() == [(1,)]
