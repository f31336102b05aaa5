"""The allowlist of SQL: a query or DML statement may use only the functions, operators and clauses that a verified
case uses.

To support another function, add a case to `supported_sql_cases.tsv`: a statement, the answer that Snowflake's
documentation gives or implies, and the page. Then run `python -m local_snowflake.supported_sql`. It writes
`supported_sql.md`, which lists all cases, and `generated_sql_shapes.txt`, the only one of these files that a running
process reads. If the case's test then fails, DuckDB or fakesnow gives another answer: correct the translation
(`translate.py`, `duckdb_macros.py`).

A shape is the form of a function, operator or clause in a case: its name, the arguments that it has, and keywords
that choose between meanings, such as a date part.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import sqlglot
from sqlglot import exp

from local_snowflake.errors import unsupported

FILE = Path(__file__).parent / "supported_sql_cases.tsv"
SHAPES = Path(__file__).parent / "generated_sql_shapes.txt"
PAGE = "supported_sql.md"
# Nodes that name or contain something and compute nothing.
LEAVES = (exp.Identifier, exp.Literal, exp.Null, exp.Boolean, exp.Var, exp.DataType, exp.DataTypeParam, exp.Placeholder,
          exp.Parameter, exp.JSONPathPart, exp.JSONPath, exp.Column, exp.ColumnDef, exp.Schema, exp.Tuple, exp.Alias,
          exp.TableAlias, exp.Paren, exp.Star, exp.PropertyEQ, exp.Kwarg, exp.RawString)  # fmt: skip
# Each clause of these nodes is verified separately, because there are too many combinations.
CLAUSES = (exp.Query, exp.Table, exp.Join, exp.From, exp.Where, exp.Group, exp.Having, exp.Qualify, exp.Order,
           exp.Ordered, exp.Window, exp.WindowSpec, exp.With, exp.CTE, exp.Limit, exp.Offset, exp.Values, exp.Insert,
           exp.Update, exp.Delete, exp.Merge, exp.When, exp.Whens, exp.Lateral, exp.TableFromRows, exp.Count, exp.Case,
           exp.If)  # fmt: skip
CHECKED = (exp.Query, exp.Insert, exp.Update, exp.Delete, exp.Merge)
NAMES = {"alias", "this", "db", "catalog"}
# The arguments whose literal is part of the shape. Formats are checked by translate_text.py and translate_casts.py.
WORDS = {"parameters"}


@dataclass(frozen=True)
class Case:
    area: str
    name: str
    statement: str
    expected: str
    basis: str
    """`example`: an example on the page, with its output. `rule`: derived from a rule that the page states."""
    page: str


def cases() -> list[Case]:
    with FILE.open(newline="") as lines:
        rows = list(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [Case(*row) for row in rows[1:]]


def statements_of(case: Case) -> list[str]:
    return [part.strip() for part in case.statement.split(";") if part.strip()]


def meaning(value: object) -> str:
    """Return a suffix for a shape, such as `=DAY`, if the argument's value decides the meaning of the function.
    Return an empty string if only the argument's presence matters.
    """
    if isinstance(value, exp.DataType):
        return f"={value.this.name}{'()' if value.expressions else ''}"
    if isinstance(value, exp.Var):
        return f"={value.name.upper()}"
    return f"={value}" if isinstance(value, str | bool) else ""


def shapes_of(node: exp.Expr) -> Iterator[str]:
    """Yield the shape of a function or operator, or one shape for each part of a clause."""
    name = type(node).__name__
    if isinstance(node, exp.Anonymous):
        yield f"{node.name.upper()}({len(node.expressions)})"
        return
    parts = []
    for key, value in node.args.items():
        if value is None or value is False or value == []:
            continue
        part = key + meaning(value)
        if (key in WORDS and isinstance(value, exp.Literal)) or (
            isinstance(node, exp.Extract) and key == "this"
        ):
            part = f"{key}={value.name.upper()}"
        parts.append(part)
    if isinstance(node, CLAUSES):
        yield from (f"{name}.{part}" for part in parts if part not in NAMES)
    else:
        yield f"{name}({', '.join(sorted(parts))})"


def checked_part(statement: exp.Expr) -> exp.Expr | None:
    if isinstance(statement, CHECKED):
        return statement
    if isinstance(statement, exp.Create) and isinstance(statement.expression, exp.Query):
        return statement.expression
    return None


@cache
def verified_shapes() -> frozenset[str]:
    return frozenset(SHAPES.read_text().splitlines())


def check(statement: exp.Expr) -> None:
    """Raise an error for the first function, operator or clause whose shape occurs in no verified case."""
    root = checked_part(statement)
    if root is None:
        return
    known = verified_shapes()
    for node in root.walk(bfs=False):
        if isinstance(node, LEAVES):
            continue
        for shape in shapes_of(node):
            if shape not in known:
                raise unsupported(
                    f"{named(node)}: {shape} is not among the verified functions, operators and clauses ({PAGE})"
                )


def named(node: exp.Expr) -> str:
    written = " ".join(node.sql(dialect="snowflake").split())
    return written if len(written) < 100 else written[:97] + "…"


def shapes() -> list[str]:
    found: set[str] = set()
    for case in cases():
        if case.expected == "REFUSED":
            continue
        for text in statements_of(case):
            root = checked_part(sqlglot.parse_one(text, read="snowflake"))
            for node in root.walk() if root else ():
                if not isinstance(node, LEAVES):
                    found |= set(shapes_of(node))
    return sorted(found)


def page() -> str:
    made = ["# Supported SQL", "", HEAD, ""]
    for area in dict.fromkeys(case.area for case in cases()):
        made += [f"## {area}", "", "| topic | statement | answer | basis | page |", "|---|---|---|---|---|"]
        for case in cases():
            if case.area == area:
                cells = (case.name, f"`{case.statement}`", f"`{case.expected}`", case.basis, case.page)
                made.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        made.append("")
    return "\n".join(made)


HEAD = """This page lists the cases that test the SQL of the local Snowflake. To support another function, add a case to
`src/local_snowflake/supported_sql_cases.tsv` and run `python -m local_snowflake.supported_sql`, which generates this
page.

A function, operator or clause is supported if a case whose answer is not `REFUSED` uses it in the same form: with the
same optional arguments and the same keywords (such as the date part in DATEADD). The arguments may have other values,
within the limits that the `REFUSED` cases show. Anything else in a query or DML statement is refused with an error
that names it. Each case is a test (`test_supported_sql.py`).

The column *basis* gives the source of the answer. With `example`, statement and answer come from an example on
Snowflake's page. With `rule`, the page states a rule from which the answer follows or, if the answer is `REFUSED`,
describes the feature that the local Snowflake refuses.

In the column *answer*, rows are separated by ` / `, and the values of a row with several columns are in parentheses.
`nothing` means that the result has no rows. Numbers are compared by value, so 1.50 equals 1.5. A VARIANT is shown as
compact JSON. `ERROR n` is an error with Snowflake's error number n, and `ERROR` is an error whose number is not
tested."""


def main() -> None:
    SHAPES.write_text("\n".join(shapes()) + "\n")
    (Path(__file__).parents[2] / PAGE).write_text(page())


if __name__ == "__main__":
    main()
