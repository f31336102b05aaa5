"""Compare the local Snowflake's results for random expressions over typed columns with the results of the
documented rules, implemented in Python.
"""

import calendar
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal

import pytest
from snowflake import connector

from local_snowflake.testing import LocalProcess

ROUNDS = tuple(range(12))
COLUMNS_PER_ROUND = 60
DEPTH = 3

type Row = dict[str, object]


@dataclass(frozen=True)
class Expression:
    sql: str
    value: Callable[[Row], object]
    scale: int = 0
    """The number of decimal places of a NUMBER."""


ROWS: tuple[Row, ...] = (
    {"I": 1, "J": 7, "N": Decimal("1.50"), "S": "abc", "T": "B", "B": True, "D": date(2024, 2, 29),
     "M": datetime(2024, 2, 29, 23, 59, 58)},
    {"I": -3, "J": 2, "N": Decimal("-2.25"), "S": "", "T": "a%c", "B": False, "D": date(2023, 12, 31),
     "M": datetime(2023, 12, 31)},
    {"I": 0, "J": 9, "N": Decimal("0.00"), "S": " x ", "T": "ABC", "B": None, "D": date(2000, 1, 1),
     "M": datetime(1999, 12, 31, 12, 30)},
    {"I": None, "J": 4, "N": None, "S": None, "T": "zz", "B": True, "D": None, "M": None},
    {"I": 12345, "J": 3, "N": Decimal("99999.99"), "S": "Äöß", "T": "10", "B": False, "D": date(2025, 3, 30),
     "M": datetime(2025, 3, 30, 1, 2, 3)},
    {"I": 2, "J": 1, "N": Decimal("0.05"), "S": "9", "T": "abc", "B": None, "D": date(2024, 3, 31),
     "M": datetime(2024, 3, 31, 6)},
)  # fmt: skip
TYPES = {"I": "INTEGER", "J": "INTEGER", "N": "NUMBER(12, 2)", "S": "VARCHAR", "T": "VARCHAR", "B": "BOOLEAN",
         "D": "DATE", "M": "TIMESTAMP_NTZ"}  # fmt: skip
OF_KIND = {"number": ("I", "J", "N"), "text": ("S", "T"), "truth": ("B",), "day": ("D",), "moment": ("M",)}


def strict(compute: Callable[..., object], *parts: Expression) -> Callable[[Row], object]:
    """Return a function that computes an expression's value from a row, or returns None if an argument is NULL."""

    def value(row: Row) -> object:
        values = [part.value(row) for part in parts]
        return None if any(each is None for each in values) else compute(*values)

    return value


def half_up(number: Decimal, scale: int) -> Decimal:
    return number.quantize(Decimal(1).scaleb(-scale), ROUND_HALF_UP)


def both(one: object, other: object) -> object:
    """Return the AND of two values in three-valued logic."""
    if one is False or other is False:
        return False
    return None if one is None or other is None else True


def opposite(value: object) -> object:
    return None if value is None else not value


class Maker:
    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)

    def any(self, depth: int = DEPTH) -> Expression:
        return self.of(self.dice.choice(tuple(OF_KIND)), depth)

    def of(self, kind: str, depth: int) -> Expression:
        if depth == 0 or self.dice.random() < 0.15:
            return self.leaf(kind)
        choices = getattr(self, f"{kind}s")
        made: Expression = self.dice.choice(choices())(depth - 1)
        return made

    def leaf(self, kind: str) -> Expression:
        name = self.dice.choice(OF_KIND[kind])
        return Expression(name, lambda row: row[name], 2 if name == "N" else 0)

    # ---- numbers

    def numbers(self) -> list[Callable[[int], Expression]]:
        return [self.sum, self.product, self.quotient, self.remainder, self.absolute, self.length, self.days_between,
                self.year, self.rounded, self.number_or, self.choice("number"), self.greatest]  # fmt: skip

    def sum(self, depth: int) -> Expression:
        a, b = self.of("number", depth), self.of("number", depth)
        sign = self.dice.choice("+-")
        value = strict(lambda x, y: x + y if sign == "+" else x - y, a, b)
        return Expression(f"({a.sql} {sign} {b.sql})", value, max(a.scale, b.scale))

    def product(self, depth: int) -> Expression:
        a, b = self.leaf("number"), self.leaf("number")
        return Expression(f"({a.sql} * {b.sql})", strict(lambda x, y: x * y, a, b), a.scale + b.scale)

    def quotient(self, depth: int) -> Expression:
        a, b = self.of("number", depth), Expression("J", lambda row: row["J"])
        scale = max(a.scale, min(a.scale + 6, 12))
        value = strict(lambda x, y: half_up(Decimal(x) / Decimal(y), scale), a, b)
        return Expression(f"({a.sql} / {b.sql})", value, scale)

    def remainder(self, depth: int) -> Expression:
        a, b = self.leaf("number"), Expression("J", lambda row: row["J"])
        return Expression(f"MOD({a.sql}, J)", strict(lambda x, y: Decimal(x) % Decimal(y), a, b), a.scale)

    def absolute(self, depth: int) -> Expression:
        a = self.of("number", depth)
        return Expression(f"ABS({a.sql})", strict(abs, a), a.scale)

    def length(self, depth: int) -> Expression:
        a = self.of("text", depth)
        return Expression(f"LENGTH({a.sql})", strict(len, a))

    def days_between(self, depth: int) -> Expression:
        a, b = self.of("day", depth), self.of("day", depth)
        return Expression(f"DATEDIFF('day', {a.sql}, {b.sql})", strict(lambda x, y: (y - x).days, a, b))

    def year(self, depth: int) -> Expression:
        a = self.of("day", depth)
        return Expression(f"YEAR({a.sql})", strict(lambda x: x.year, a))

    def rounded(self, depth: int) -> Expression:
        return Expression("ROUND(N, 1)", lambda row: None if row["N"] is None else half_up(row["N"], 1), 1)

    def number_or(self, depth: int) -> Expression:
        a = self.of("number", depth)
        return Expression(
            f"COALESCE({a.sql}, 0)", lambda row: 0 if a.value(row) is None else a.value(row), a.scale
        )

    def greatest(self, depth: int) -> Expression:
        a, b = self.of("number", depth), self.of("number", depth)
        return Expression(f"GREATEST({a.sql}, {b.sql})", strict(max, a, b), max(a.scale, b.scale))

    def choice(self, kind: str) -> Callable[[int], Expression]:
        def make(depth: int) -> Expression:
            when, a, b = self.of("truth", depth), self.of(kind, depth), self.of(kind, depth)
            return Expression(
                f"IFF({when.sql}, {a.sql}, {b.sql})",
                lambda row: (a if when.value(row) else b).value(row),
                max(a.scale, b.scale),
            )

        return make

    # ---- text

    def texts(self) -> list[Callable[[int], Expression]]:
        return [self.joined, self.upper, self.part, self.trimmed, self.number_text, self.day_text, self.moment_text,
                self.replaced, self.choice("text"), self.left]  # fmt: skip

    def joined(self, depth: int) -> Expression:
        a, b = self.of("text", depth), self.of("text", depth)
        return Expression(f"({a.sql} || {b.sql})", strict(lambda x, y: x + y, a, b))

    def upper(self, depth: int) -> Expression:
        a = self.leaf("text")
        # ß is excluded, because its upper case is ẞ in DuckDB, but SS in Python.
        return Expression(
            f"UPPER(REPLACE({a.sql}, 'ß', ''))", strict(lambda x: x.replace("ß", "").upper(), a)
        )

    def part(self, depth: int) -> Expression:
        a, start, length = self.of("text", depth), self.dice.randint(1, 3), self.dice.randint(0, 3)
        value = strict(lambda x: x[start - 1 : start - 1 + length], a)
        return Expression(f"SUBSTR({a.sql}, {start}, {length})", value)

    def left(self, depth: int) -> Expression:
        a, length = self.of("text", depth), self.dice.randint(0, 3)
        return Expression(f"LEFT({a.sql}, {length})", strict(lambda x: x[:length], a))

    def trimmed(self, depth: int) -> Expression:
        a = self.of("text", depth)
        return Expression(f"TRIM({a.sql})", strict(lambda x: x.strip(" "), a))

    def replaced(self, depth: int) -> Expression:
        a = self.of("text", depth)
        return Expression(f"REPLACE({a.sql}, 'a', '--')", strict(lambda x: x.replace("a", "--"), a))

    def number_text(self, depth: int) -> Expression:
        a = self.leaf("number")
        return Expression(f"{a.sql}::VARCHAR", strict(str, a))

    def day_text(self, depth: int) -> Expression:
        a = self.of("day", depth)
        return Expression(f"{a.sql}::VARCHAR", strict(lambda x: x.isoformat(), a))

    def moment_text(self, depth: int) -> Expression:
        a = self.of("moment", depth)
        return Expression(f"{a.sql}::VARCHAR", strict(lambda x: f"{x:%Y-%m-%d %H:%M:%S}.000", a))

    # ---- truth

    def truths(self) -> list[Callable[[int], Expression]]:
        return [self.compared, self.conjunction, self.disjunction, self.negation, self.is_null, self.between,
                self.among, self.alike]  # fmt: skip

    def compared(self, depth: int) -> Expression:
        kind = self.dice.choice(("number", "text", "day", "moment"))
        a, b = self.of(kind, depth), self.of(kind, depth)
        sign, compute = self.dice.choice(COMPARISONS)
        return Expression(f"({a.sql} {sign} {b.sql})", strict(compute, a, b))

    def conjunction(self, depth: int) -> Expression:
        a, b = self.of("truth", depth), self.of("truth", depth)
        return Expression(f"({a.sql} AND {b.sql})", lambda row: both(a.value(row), b.value(row)))

    def disjunction(self, depth: int) -> Expression:
        a, b = self.of("truth", depth), self.of("truth", depth)
        return Expression(
            f"({a.sql} OR {b.sql})",
            lambda row: opposite(both(opposite(a.value(row)), opposite(b.value(row)))),
        )

    def negation(self, depth: int) -> Expression:
        a = self.of("truth", depth)
        return Expression(f"(NOT {a.sql})", lambda row: opposite(a.value(row)))

    def is_null(self, depth: int) -> Expression:
        a = self.any(depth)
        return Expression(f"({a.sql} IS NULL)", lambda row: a.value(row) is None)

    def between(self, depth: int) -> Expression:
        a = self.of("number", depth)
        return Expression(f"({a.sql} BETWEEN -1 AND 5)", strict(lambda x: -1 <= x <= 5, a))

    def among(self, depth: int) -> Expression:
        a = self.of("text", depth)
        return Expression(f"({a.sql} IN ('abc', '', '9'))", strict(lambda x: x in ("abc", "", "9"), a))

    def alike(self, depth: int) -> Expression:
        a = self.of("text", depth)
        return Expression(f"({a.sql} LIKE 'a%')", strict(lambda x: x.startswith("a"), a))

    # ---- dates and times

    def days(self) -> list[Callable[[int], Expression]]:
        return [self.day_later, self.month_start, self.month_end, self.day_of, self.choice("day")]

    def day_later(self, depth: int) -> Expression:
        a, days = self.of("day", depth), self.dice.randint(-40, 40)
        return Expression(f"DATEADD('day', {days}, {a.sql})", strict(lambda x: x + timedelta(days=days), a))

    def month_start(self, depth: int) -> Expression:
        a = self.of("day", depth)
        return Expression(f"DATE_TRUNC('month', {a.sql})", strict(lambda x: x.replace(day=1), a))

    def month_end(self, depth: int) -> Expression:
        a = self.of("day", depth)
        last = strict(lambda x: x.replace(day=calendar.monthrange(x.year, x.month)[1]), a)
        return Expression(f"LAST_DAY({a.sql})", last)

    def day_of(self, depth: int) -> Expression:
        a = self.of("moment", depth)
        return Expression(f"{a.sql}::DATE", strict(lambda x: x.date(), a))

    def moments(self) -> list[Callable[[int], Expression]]:
        return [self.hours_later, self.hour_start, self.midnight, self.choice("moment")]

    def hours_later(self, depth: int) -> Expression:
        a, hours = self.of("moment", depth), self.dice.randint(-30, 30)
        return Expression(
            f"DATEADD('hour', {hours}, {a.sql})", strict(lambda x: x + timedelta(hours=hours), a)
        )

    def hour_start(self, depth: int) -> Expression:
        a = self.of("moment", depth)
        return Expression(f"DATE_TRUNC('hour', {a.sql})", strict(lambda x: x.replace(minute=0, second=0), a))

    def midnight(self, depth: int) -> Expression:
        a = self.of("day", depth)
        return Expression(f"{a.sql}::TIMESTAMP_NTZ", strict(lambda x: datetime(x.year, x.month, x.day), a))


COMPARISONS: tuple[tuple[str, Callable[[object, object], bool]], ...] = (
    ("=", lambda x, y: x == y),
    ("<>", lambda x, y: x != y),
    ("<", lambda x, y: x < y),
    (">=", lambda x, y: x >= y),
)


def as_compared(value: object) -> object:
    return float(value) if isinstance(value, int | Decimal) and not isinstance(value, bool) else value


@pytest.fixture(scope="module")
def typed(local: LocalProcess) -> Iterator[connector.cursor.SnowflakeCursor]:
    with local.connect() as connection:
        cursor = connection.cursor()
        cursor.execute("CREATE DATABASE FUZZ")
        cursor.execute("CREATE SCHEMA FUZZ.S")
        columns = ", ".join(f"{name} {kind}" for name, kind in TYPES.items())
        cursor.execute(f"CREATE TABLE TYPED (ID INTEGER, {columns})")
        for number, row in enumerate(ROWS):
            values = ", ".join("NULL" if value is None else literal(value) for value in row.values())
            cursor.execute(f"INSERT INTO TYPED VALUES ({number}, {values})")
        yield cursor
        cursor.execute("DROP DATABASE FUZZ")


def literal(value: object) -> str:
    return str(value) if isinstance(value, bool | int | Decimal) else f"'{value}'"


@pytest.mark.parametrize("seed", ROUNDS)
def test_random_expressions_evaluate_as_documented(
    typed: connector.cursor.SnowflakeCursor, seed: int
) -> None:
    maker = Maker(seed)
    expressions = [maker.any() for _ in range(COLUMNS_PER_ROUND)]
    columns = ", ".join(f"{each.sql} AS C{number}" for number, each in enumerate(expressions))
    found = typed.execute(f"SELECT {columns} FROM TYPED ORDER BY ID")
    assert found
    for row, values in zip(ROWS, found.fetchall(), strict=True):
        for expression, value in zip(expressions, values, strict=True):
            assert (expression.sql, as_compared(value)) == (
                expression.sql,
                as_compared(expression.value(row)),
            )


@pytest.mark.parametrize("seed", ROUNDS)
def test_random_aggregates_evaluate_as_documented(typed: connector.cursor.SnowflakeCursor, seed: int) -> None:
    maker = Maker(1000 + seed)
    expressions = [maker.of("number", DEPTH) for _ in range(10)]
    columns = ", ".join(f"SUM({e.sql}), COUNT({e.sql}), MIN({e.sql}), MAX({e.sql})" for e in expressions)
    found = typed.execute(f"SELECT {columns} FROM TYPED")
    assert found
    values = iter(found.fetchall()[0])
    for expression in expressions:
        present = [value for row in ROWS if (value := expression.value(row)) is not None]
        wanted = [
            sum(present) if present else None,
            len(present),
            min(present, default=None),
            max(present, default=None),
        ]
        got = [next(values) for _ in wanted]
        assert (expression.sql, list(map(as_compared, got))) == (
            expression.sql,
            list(map(as_compared, wanted)),
        )
