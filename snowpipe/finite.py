"""Numbers that JSON cannot say."""

import math
from typing import Any


def finite(value: Any) -> Any:
    """The same value with every NaN and Infinity in it as a text, so that what is printed is always JSON.

    A warehouse may hold such a number: 'NaN'::FLOAT is one.
    """
    match value:
        case float() if not math.isfinite(value):
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        case dict():
            return {name: finite(each) for name, each in value.items()}
        case list() | tuple():
            return [finite(each) for each in value]
    return value
