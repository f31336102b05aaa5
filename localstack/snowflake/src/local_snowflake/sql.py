"""Parse statements for which sqlglot has no grammar, such as those on pipes and integrations. Their tokens come from
sqlglot's tokenizer, which handles quoting, comments and dollar-quoted strings.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import sqlglot
from sqlglot import exp
from sqlglot.errors import ParseError, TokenError
from sqlglot.tokenizer_core import Token, TokenType

from local_snowflake.actor import Actor
from local_snowflake.errors import SnowflakeError, compilation, unsupported

type Value = str | bool | int | float | tuple["Value", ...] | "Options"
type Options = Mapping[str, Value]

STRINGS = {TokenType.STRING, TokenType.RAW_STRING, TokenType.HEREDOC_STRING}


class Name(NamedTuple):
    """A schema object's full name as Snowflake stores it, with each part in upper case unless it was quoted."""

    database: str
    schema: str
    name: str

    def __str__(self) -> str:
        return ".".join(self)

    @property
    def sql(self) -> str:
        return ".".join(quoted(part) for part in self)


@dataclass(frozen=True)
class Scope:
    """The database and schema with which a session resolves unqualified names, and the session's actor."""

    database: str | None = None
    schema: str | None = None
    actor: Actor | None = None

    def resolve(self, parts: tuple[str, ...]) -> Name:
        match parts:
            case (database, schema, name):
                return Name(database, schema, name)
            case (schema, name) if self.database:
                return Name(self.database, schema, name)
            case (name,) if self.database and self.schema:
                return Name(self.database, self.schema, name)
        raise compilation(
            "This session does not have a current database or schema. Call 'USE DATABASE' or 'USE SCHEMA', or "
            "use a qualified name.",
            "090105",
            "22000",
        )


def actor_of(scope: Scope) -> Actor:
    if scope.actor is None:
        raise ValueError("a statement outside a session has no actor")
    return scope.actor


def quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'


OURS = '_fs_global."_local"'
"""The schema of our tables that do not belong to a single database, such as `users` and `pipes`."""


def hidden(database: str) -> str:
    """Return the name of a database's hidden schema, which contains fakesnow's tables and ours."""
    return f"{quoted(database)}._fs_information_schema"


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def tokens_of(sql: str) -> list[Token]:
    try:
        return [word for token in sqlglot.tokenize(sql, read="snowflake") for word in words_of(token)]
    except TokenError as error:
        raise compilation(plain(str(error))) from None


def words_of(token: Token) -> Iterator[Token]:
    """Yield the words of a token, because sqlglot reads pairs such as STORAGE INTEGRATION and FILE FORMAT as
    one token.
    """
    if token.token_type in STRINGS or token.token_type == TokenType.IDENTIFIER or " " not in token.text:
        yield token
        return
    words = token.text.split()
    for word in words:
        start = token.start if word is words[0] else token.end - len(word) + 1
        yield Token(TokenType.VAR, word, token.line, token.col, start, start + len(word) - 1)


def parsed(sql: str) -> exp.Expr:
    try:
        return sqlglot.parse_one(sql, read="snowflake")
    except TokenError as error:
        raise compilation(plain(str(error))) from None
    except ParseError as error:
        raise syntax_error(error) from None


CLUSTERED = re.compile(r"\bCLUSTER\s+BY\s*\([^)]*$", re.IGNORECASE)


def syntax_error(error: ParseError) -> SnowflakeError:
    first = error.errors[0] if error.errors else {}
    if not first.get("highlight"):
        return compilation(plain(str(error)))
    if CLUSTERED.search(first.get("start_context") or ""):
        return unsupported("CLUSTER BY an expression that is not a column")  # Snowflake supports it
    place = f"line {first['line']} at position {first['col']}"
    return compilation(f"syntax error {place} unexpected '{first['highlight']}'.")


def plain(message: str) -> str:
    """Return sqlglot's error message without the escape codes that underline text in a terminal."""
    return message.replace("\x1b[4m", "").replace("\x1b[0m", "")


class Words:
    """A cursor over a statement's tokens. Each `take…` method advances the cursor or raises a syntax error;
    `takes` returns False instead of raising one.
    """

    def __init__(self, sql: str) -> None:
        self.sql = sql
        self.tokens = tokens_of(sql)
        while self.tokens and self.tokens[-1].token_type == TokenType.SEMICOLON:
            self.tokens.pop()
        self.at = 0

    @property
    def done(self) -> bool:
        return self.at >= len(self.tokens)

    @property
    def token(self) -> Token:
        if self.done:
            raise compilation("syntax error: unexpected end of statement.")
        return self.tokens[self.at]

    def start(self, count: int = 4) -> tuple[str, ...]:
        return tuple(token.text.upper() for token in self.tokens[:count])

    def sees(self, *words: str) -> bool:
        ahead = self.tokens[self.at : self.at + len(words)]
        return [t.text.upper() for t in ahead] == list(words) and all(
            t.token_type not in STRINGS and t.token_type != TokenType.IDENTIFIER for t in ahead
        )

    def takes(self, *words: str) -> bool:
        """Consume these words and return True if they come next; otherwise return False."""
        if not self.sees(*words):
            return False
        self.at += len(words)
        return True

    def take(self, *words: str) -> None:
        if not self.takes(*words):
            raise self.unexpected()

    def unexpected(self) -> Exception:
        if self.done:
            return compilation("syntax error: unexpected end of statement.")
        return compilation(
            f"syntax error line {self.token.line} at position {self.token.col} "
            f"unexpected '{self.token.text}'."
        )

    def finish(self) -> None:
        if not self.done:
            raise self.unexpected()

    def take_identifier(self) -> str:
        token = self.token
        word = token.token_type not in STRINGS and (token.text[:1].isalnum() or token.text[:1] == "_")
        if not word and token.token_type != TokenType.IDENTIFIER:
            raise self.unexpected()
        self.at += 1
        return token.text if token.token_type == TokenType.IDENTIFIER else token.text.upper()

    def take_name(self) -> tuple[str, ...]:
        parts = [self.take_identifier()]
        while self.takes("."):
            parts.append(self.take_identifier())
        return tuple(parts)

    def take_string(self) -> str:
        if self.token.token_type not in STRINGS:
            raise self.unexpected()
        self.at += 1
        return self.tokens[self.at - 1].text

    def take_value(self) -> Value:
        """Consume and return a property's value: 'text', a word, a number, TRUE, (list) or (NAME = value …)."""
        if self.takes("("):
            return self._rest_of_list()
        token = self.token
        if token.token_type in STRINGS:
            self.at += 1
            return token.text
        if token.token_type == TokenType.NUMBER:
            self.at += 1
            return float(token.text) if "." in token.text else int(token.text)
        if token.token_type == TokenType.DASH:
            self.at += 1
            number = self.take_value()
            if not isinstance(number, int | float):
                raise self.unexpected()
            return -number
        if token.token_type in (TokenType.TRUE, TokenType.FALSE):
            self.at += 1
            return token.token_type == TokenType.TRUE
        name = ".".join(self.take_name())
        # The tokenizer splits SKIP_FILE_10% into two tokens.
        return f"{name}%" if self.takes("%") else name

    def _rest_of_list(self) -> Value:
        if self.takes(")"):
            return ()
        following = self.tokens[self.at + 1 : self.at + 2]
        if following and following[0].token_type == TokenType.EQ:
            options = self.take_options()
            self.take(")")
            return options
        values = [self.take_value()]
        while self.takes(","):
            values.append(self.take_value())
        self.take(")")
        return tuple(values)

    def take_options(self, until: Iterable[str] = ()) -> dict[str, Value]:
        """Consume and return options (NAME = value [, NAME = value …]), up to the end, a closing bracket or
        one of the words in `until`.
        """
        stops = {")", *until}
        options: dict[str, Value] = {}
        while not self.done and not any(self.sees(stop) for stop in stops):
            name = self.take_identifier()
            self.take("=")
            if name in options:
                raise compilation(f"duplicate property '{name}'", "001008", "42601")
            options[name] = self.take_value()
            self.takes(",")
        return options

    def take_stage(self) -> str:
        """Consume a stage reference and return everything after `@`, including the path, up to a space,
        bracket or comma.
        """
        self.take("@")
        first = self.at
        while not self.done:
            ahead = self.token
            if ahead.text in {"(", ")", ","}:
                break
            if self.at > first and ahead.start != self.tokens[self.at - 1].end + 1:
                break
            self.at += 1
        if self.at == first:
            raise self.unexpected()
        return self.sql[self.tokens[first].start : self.tokens[self.at - 1].end + 1]

    def take_brackets(self) -> str:
        """Consume a pair of brackets and return the text between them."""
        self.take("(")
        start, depth = self.token.start, 1
        while True:
            token = self.token
            if token.token_type == TokenType.L_PAREN:
                depth += 1
            elif token.token_type == TokenType.R_PAREN:
                depth -= 1
            self.at += 1
            if depth == 0:
                return self.sql[start : token.start]

    def rest(self) -> str:
        """Return the rest of the statement without its final semicolon."""
        if self.done:
            return ""
        return self.sql[self.token.start : self.tokens[-1].end + 1]


def stage_parts(reference: str, scope: Scope) -> tuple[Name, str]:
    """Split `db.schema.stage/some/path` into the stage's name and the path within it."""
    name, _, path = reference.partition("/")
    if name[:1] in ("~", "%"):
        raise unsupported(f"user or table stage @{name}")
    return scope.resolve(Words(name).take_name()), path


def text_of(options: Options, name: str) -> str | None:
    value = options.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise compilation(f"invalid value [{value}] for parameter '{name}'", "001008", "42601")
    return value


def flag_of(options: Options, name: str, default: bool = False) -> bool:
    value = options.get(name, default)
    if isinstance(value, str) and value.upper() in ("TRUE", "FALSE"):
        return value.upper() == "TRUE"
    if not isinstance(value, bool):
        raise compilation(f"invalid value [{value}] for parameter '{name}'", "001008", "42601")
    return value
