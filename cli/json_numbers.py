"""Replace numbers that JSON cannot represent."""

import math


def finite(value: object) -> object:
    """Return the value with every NaN and infinity replaced with text, so that the output is always valid JSON.

    A warehouse may contain such numbers, for example 'NaN'::FLOAT.
    """
    match value:
        case float() if not math.isfinite(value):
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        case dict():
            return {name: finite(each) for name, each in value.items()}
        case list() | tuple():
            return [finite(each) for each in value]
    return value
