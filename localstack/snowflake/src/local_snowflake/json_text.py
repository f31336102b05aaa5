"""The text of a VARIANT: strict JSON with the keys of each object sorted, as Snowflake stores and shows it,
because an OBJECT does not preserve the order of its keys (Snowflake: "Semi-structured data types"). Numbers are
written as in the original text.
"""

from typing import Any

import jiter
import msgspec

ENCODER = msgspec.json.Encoder(order="sorted", enc_hook=lambda number: msgspec.Raw(bytes(number)))


def parsed(document: bytes, allow_duplicate: bool = False) -> Any:
    """Parse a strict JSON document into values that `text_of` accepts. Raises ValueError if the document is
    invalid, or if it repeats a name and `allow_duplicate` is not set.
    """
    return jiter.from_json(
        document,
        allow_inf_nan=False,
        catch_duplicate_keys=not allow_duplicate,
        cache_mode="keys",
        float_mode="lossless-float",
    )


def text_of(value: object) -> str:
    return ENCODER.encode(value).decode()


def place_and_message(error: ValueError) -> tuple[int, str]:
    """Return the column at which a document becomes invalid JSON (1 if unknown), and Snowflake's error message."""
    message, _, place = str(error).rpartition(" at line ")
    _, _, column = place.rpartition(" ")
    return int(column) if column.isdecimal() else 1, f"Error parsing JSON: {message or error}"
