"""Write the table of faults and their consequences in docs/reliability.md."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.faults.harness import Result

DOCUMENT = Path(__file__).parents[2] / "docs/reliability.md"
BEGIN, END = "<!-- make faults writes from here -->", "<!-- to here -->"
HEADINGS = (
    "fault",
    "requests",
    "events",
    "5xx seen",
    "recovered after",
    "lost",
    "duplicated",
    "wrong visits",
    "other",
)


@dataclass(frozen=True, slots=True)
class Line:
    """A row of the table: a scenario's fault and its numbers, in the order of HEADINGS."""

    fault: str
    requests: int
    events: int
    failures: int
    recovered_s: int
    lost: int
    duplicated: int
    wrong_visits: int
    others: int

    @staticmethod
    def of(result: Result) -> "Line":
        lost = result.count("lost", "undelivered")
        duplicated = result.count("duplicated")
        wrong_visits = result.count("wrong visit", "notification")
        return Line(
            result.name,
            len(result.exchanges),
            result.events,
            result.failures,
            round(result.recovered_s),
            lost,
            duplicated,
            wrong_visits,
            len(result.breaches) - lost - duplicated - wrong_visits,
        )

    def __str__(self) -> str:
        name, *numbers = astuple(self)
        written = [f"{number:,}" for number in numbers]
        written[3] += " s"
        return f"| {' | '.join([name, *written])} |"

    @staticmethod
    def read(text: str) -> "Line | None":
        """Parse a row that `__str__` has written; return None for any other line."""
        name, *cells = [cell.strip() for cell in text.strip("| ").split("|")]
        numbers = [cell.removesuffix(" s").replace(",", "") for cell in cells]
        if name == SUM or len(cells) != len(HEADINGS) - 1 or not all(map(str.isdigit, numbers)):
            return None
        return Line(name, *map(int, numbers))


SUM = "**all; the longest recovery**"


def table(lines: Sequence[Line]) -> str:
    """Return a Markdown table whose last row contains the totals and the longest recovery time."""
    columns = zip(*(astuple(line)[1:] for line in lines), strict=True)
    sums = [max(column) if n == 3 else sum(column) for n, column in enumerate(columns)]
    heads = [" | ".join(HEADINGS), " | ".join(["---", *["--:"] * (len(HEADINGS) - 1)])]
    return "\n".join([*(f"| {head} |" for head in heads), *map(str, lines), str(Line(SUM, *sums))])


def merged(before: str, results: Iterable[Result], order: Mapping[str, int]) -> list[Line]:
    """Merge the rows of an earlier table with new results, sorted by `order`; drop names that are not in `order`.

    A new result replaces the earlier row with the same name.
    """
    lines = {line.fault: line for text in before.splitlines() if (line := Line.read(text))}
    lines |= {result.name: Line.of(result) for result in results}
    return sorted(
        (line for line in lines.values() if line.fault in order), key=lambda line: order[line.fault]
    )


def write(results: Sequence[Result], order: Mapping[str, int], document: Path = DOCUMENT) -> None:
    """Write the table between the document's two markers. The rows of scenarios that did not run this time are kept."""
    before, _, rest = document.read_text().partition(BEGIN)
    between, _, after = rest.partition(END)
    made = f"{datetime.now(UTC):%Y-%m-%d}, seed {results[0].seed}."
    text = table(merged(between, results, order))
    document.write_text(f"{before}{BEGIN}\n\n{text}\n\n{made}\n\n{END}{after}")
