"""What belongs in fakesnow 0.12.1: each fix with the reason. `tests/test_fixes.py` has the tests that it would need."""

import fakesnow.arrow
import pyarrow as pa

_as_struct = fakesnow.arrow.timestamp_to_sf_struct


def timestamps(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """As fakesnow's, but NULL stays NULL: its structs have no mask, so every NULL reads as 1970-01-01."""
    struct = _as_struct(column)
    parts = [part.fill_null(0) for part in struct.flatten()]
    nulls = column.is_null()
    if isinstance(nulls, pa.ChunkedArray):
        nulls = nulls.combine_chunks()
    return pa.StructArray.from_arrays(parts, fields=list(struct.type), mask=nulls)


def apply() -> None:
    fakesnow.arrow.timestamp_to_sf_struct = timestamps  # type: ignore[assignment]
