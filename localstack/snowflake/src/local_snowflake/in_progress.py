"""Statements that take longer than one HTTP request.

Snowflake answers within 45 seconds. If a statement is still running then, the answer is code 333333 and the URL at
which the result will be available (Snowflake: "Submitting a request to execute SQL statements"). If the connector
receives no answer within 60 seconds, it sends the statement again with the same request id. That request must join the
running statement, because otherwise an INSERT would insert its rows twice.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.responses import JSONResponse

ANSWER_WITHIN_SECONDS = 45.0
IN_PROGRESS = "333333"

type Message = MutableMapping[str, Any]
type Receive = Callable[[], Awaitable[Message]]
type Send = Callable[[Message], Awaitable[None]]
type Statement = Callable[[Send], Awaitable[None]]


class RunningStatements:
    """The running statements, keyed by session token and request id. A statement's answer is kept until it is
    received or the session ends.
    """

    def __init__(self, answer_within: float = ANSWER_WITHIN_SECONDS) -> None:
        self.answer_within = answer_within
        self._running: dict[tuple[str, str], asyncio.Task[list[Message]]] = {}

    async def run(
        self, token: str, request_id: str, statement: Statement, receive: Receive, send: Send
    ) -> None:
        """Run the statement, or wait for it if it is already running, and send its answer. Send code 333333 instead if
        the statement is still running after `answer_within` seconds.
        """
        key = token, request_id
        if key not in self._running:
            self._running[key] = asyncio.create_task(_answer_of(statement))
        await self._answer(key, receive, send)

    async def result(self, token: str, request_id: str, receive: Receive, send: Send) -> bool:
        """Wait for a statement that was answered with code 333333, and send its answer, or code 333333 again. Return
        whether the statement exists.
        """
        key = token, request_id
        if known := key in self._running:
            await self._answer(key, receive, send)
        return known

    def runs(self, token: str, request_id: str) -> bool:
        """Return whether the statement with this id is running."""
        task = self._running.get((token, request_id))
        return task is not None and not task.done()

    def forget(self, token: str) -> None:
        """Drop the answers of a session that has ended."""
        for key in [key for key in self._running if key[0] == token]:
            del self._running[key]

    async def _answer(self, key: tuple[str, str], receive: Receive, send: Send) -> None:
        task = self._running[key]
        client_left = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait(
                {task, client_left}, timeout=self.answer_within, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            left = client_left.done()
            client_left.cancel()
        if left:
            return
        if task.done():
            self._running.pop(key, None)
            messages = task.result()
        else:
            messages = in_progress(key[1])
        for message in messages:
            await send(message)


async def _answer_of(statement: Statement) -> list[Message]:
    messages: list[Message] = []

    async def collect(message: Message) -> None:
        messages.append(message)

    try:
        await statement(collect)
    except Exception:
        if not messages:
            raise
        # After an exception, Starlette sends an error response and then raises the exception again. The response is
        # complete by then, and has been logged by `_at_once` in server.py.
    return messages


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def in_progress(request_id: str) -> list[Message]:
    """Return the response for a statement that is still running. The connector polls the URL in the response
    until the statement has finished.
    """
    response = JSONResponse(
        {
            "data": {"getResultUrl": f"/queries/{request_id}/result"},
            "code": IN_PROGRESS,
            "message": "Query execution in progress.",
            "success": True,
        }
    )
    return [
        {"type": "http.response.start", "status": 200, "headers": response.raw_headers},
        {"type": "http.response.body", "body": response.body},
    ]
