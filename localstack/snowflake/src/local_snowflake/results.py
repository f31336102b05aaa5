"""The result of a statement that fakesnow does not run. It is registered as a view in the session; fakesnow then
reads this view, and returns the rows to the connector.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from local_snowflake.sql import Scope, Words

VIEW = "_LOCAL_RESULT"
READ_OUT = f"SELECT * FROM TEMP.MAIN.{VIEW}"
TEXT = pa.string()
TIME = pa.timestamp("us", tz="UTC")
NUMBER = pa.int64()


@dataclass(frozen=True)
class Result:
    columns: dict[str, pa.DataType]
    rows: Sequence[Sequence[object]]

    def table(self) -> pa.Table:
        schema = pa.schema(self.columns)
        columns = list(zip(*self.rows, strict=True)) if self.rows else [()] * len(schema)
        return pa.table(
            [pa.array(list(column), kind.type) for column, kind in zip(columns, schema, strict=True)],
            schema=schema,
        )


type Handler = Callable[[Words, Scope], Result | str | None]
"""Answers a statement (Result), rewrites it for fakesnow (str), or leaves it unchanged (None)."""
type Handlers = Mapping[tuple[str, ...], Handler]
"""Handlers, keyed by the words that identify their statement, for example ("CREATE", "PIPE")."""


def status(message: str) -> Result:
    return Result({"status": TEXT}, [(message,)])


SUCCEEDED = status("Statement executed successfully.")
