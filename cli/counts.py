"""Write a number and its noun for a message."""


def count(number: int, noun: str) -> str:
    """Return the number and the noun in the form that fits it: "1 object", "0 objects", "1,200 events", "2 batches".

    `noun` is a singular whose plural ends in "s", or in "es" after "s", "x", "ch" and "sh". For another noun, or
    where a verb depends on the number, word the message differently.
    """
    plural = f"{noun}es" if noun.endswith(("s", "x", "ch", "sh")) else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"
