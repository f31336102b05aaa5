"""Errors in Snowflake's form: a code, an SQL state and the message that the connector shows."""


class SnowflakeError(Exception):
    def __init__(self, code: str, sqlstate: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.sqlstate = sqlstate
        self.message = message


def compilation(message: str, code: str = "001003", sqlstate: str = "42000") -> SnowflakeError:
    return SnowflakeError(code, sqlstate, f"SQL compilation error:\n{message}")


def missing(kind: str, name: object) -> SnowflakeError:
    return compilation(f"{kind} '{name}' does not exist or not authorized.", "002003", "02000")


def no_privilege(kind: str, name: str) -> SnowflakeError:
    what = f"{kind.lower()} '{name.rpartition('.')[2]}'" if name else "account"
    return SnowflakeError(
        "003001", "42501", f"SQL access control error:\nInsufficient privileges to operate on {what}."
    )


def exists(name: str) -> SnowflakeError:
    return compilation(f"Object '{name}' already exists.", "002002", "42710")


def unsupported(what: str) -> SnowflakeError:
    return SnowflakeError("000002", "0A000", f"Not supported by the local Snowflake: {what}")


def stage_failure(reason: str) -> SnowflakeError:
    return SnowflakeError("091003", "22000", f"Failure using stage area. Cause: [{reason}]")
