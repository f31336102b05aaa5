"""The table in docs/reliability.md: what was broken, and what was lost."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tests.faults.story import Result

DOCUMENT = Path(__file__).parents[2] / "docs/reliability.md"
BEGIN, END = "<!-- make faults writes from here -->", "<!-- to here -->"
HEADINGS = (
    "fault",
    "requests",
    "events",
    "5xx seen",
    "recovered after",
    "lost",
    "doubled",
    "wrong visits",
    "else",
)


def table(results: Sequence[Result]) -> str:
    """Markdown; the last line adds up."""
    rows = [_row(result) for result in results]
    lines = [" | ".join(HEADINGS), "|".join(["---", *["--:"] * (len(HEADINGS) - 1)])]
    for (name, numbers), result in zip(rows, results, strict=True):
        lines.append(
            " | ".join([name, *_written(numbers[:3]), f"{result.recovered_s:.0f} s", *_written(numbers[3:])])
        )
    sums = [sum(column) for column in zip(*(numbers for _, numbers in rows), strict=True)]
    longest = max(result.recovered_s for result in results)
    lines.append(" | ".join(["**all**", *_written(sums[:3]), f"≤ {longest:.0f} s", *_written(sums[3:])]))
    minutes = sum(result.seconds for result in results) / 60
    made = f"{datetime.now(UTC):%Y-%m-%d}, seed {results[0].seed}, {minutes:.0f} minutes."
    return "\n".join([*(f"| {line} |" for line in lines), "", made])


def write(text: str, document: Path = DOCUMENT) -> None:
    """Between the two marks; everything else stays."""
    before, _, rest = document.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    document.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


def _row(result: Result) -> tuple[str, list[int]]:
    lost = result.count("lost", "undelivered")
    doubled = result.count("doubled")
    wrong_visits = result.count("wrong visit", "told")
    others = len(result.breaches) - lost - doubled - wrong_visits
    counts = [len(result.exchanges), result.events, result.failures, lost, doubled, wrong_visits, others]
    return result.name, counts


def _written(numbers: Sequence[int]) -> list[str]:
    return [f"{number:,}" for number in numbers]
