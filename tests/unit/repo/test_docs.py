"""Test that paths and links in the tour and the decision records are valid, and that the tour agrees with the code.

Also test that the Dockerfile in docs/consumer.md copies exactly the project's packages that the KCL worker imports, and
that it installs requirements with hashes in a separate pip command.
"""

import re
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from consumer.visits import visits_of
from contract.archive_object import lines_object
from contract.event_rules import geofence_event

ROOT = Path(__file__).resolve().parents[3]
TOUR = ROOT / "docs" / "tour.md"
DECISIONS = sorted((ROOT / "docs" / "adr").glob("*.md"))
PAGES = [str(page.relative_to(ROOT)) for page in [TOUR, *DECISIONS] if page.exists()]
TOP_LEVEL = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
# S3 prefixes
NOT_FILES = {"events", "rejected", "set-aside"}


def named_paths(markdown: str) -> set[str]:
    """Return the paths relative to the repository root that appear in inline code, such as `handler/main.py`
    or `docs/adr/`.
    """
    spans = re.findall(r"`([^`\s]+)`", markdown)
    return {span for span in spans if re.fullmatch(r"[\w.-]+(/[\w.-]+)*/?", span) and looks_like_a_path(span)}


def looks_like_a_path(span: str) -> bool:
    first, slash, _ = span.partition("/")
    if slash:
        return first not in NOT_FILES
    return span in TOP_LEVEL and "." in span


def linked_pages(markdown: str) -> set[str]:
    targets = re.findall(r"\]\(([^)\s#]+)(?:#[^)]*)?\)", markdown)
    return {target for target in targets if "://" not in target}


@pytest.mark.parametrize("page", PAGES)
def test_every_path_and_link_in_the_tour_and_the_decision_records_exists(page: str) -> None:
    path = ROOT / page
    text = path.read_text()
    missing = [name for name in sorted(named_paths(text)) if not (ROOT / name).exists()]
    missing += [link for link in sorted(linked_pages(text)) if not (path.parent / link).exists()]
    assert missing == []


def test_decision_index_lists_every_decision_record() -> None:
    index = (ROOT / "docs" / "adr" / "README.md").read_text()
    pages = {page.name for page in DECISIONS if page.name != "README.md"}
    assert set(re.findall(r"\((\d{4}-[a-z0-9-]+\.md)\)", index)) >= pages
    numbers = [int(name[:4]) for name in pages]
    assert sorted(numbers) == sorted(set(numbers))


def test_every_identifier_in_the_numbered_sections_of_the_tour_is_in_the_core() -> None:
    """Only the numbered sections describe the core."""
    sections = TOUR.read_text().partition("\n## 1. ")[2].partition("\n## After")[0]
    named = set(re.findall(r"`([A-Za-z_]{4,})`", sections))
    folders = ("contract", "aws", "handler", "consumer")
    source = "\n".join(path.read_text() for name in folders for path in (ROOT / name).glob("*.py"))
    assert named
    assert {name for name in named if not re.search(rf"\b{name}\b", source)} == set()


def test_example_events_in_the_tour_produce_the_object_and_visit_shown_there() -> None:
    tour = TOUR.read_text()
    batch, shown = (msgspec.json.decode(text) for text in re.findall(r"```json\n(.*?)```", tour, re.S))
    events = re.findall(r"^(\{\"_id\".*\}),?$", tour, re.M)
    assert [msgspec.json.decode(event) for event in events] == batch

    stored = lines_object(
        "events", [e.encode() for e in events], datetime(2026, 11, 16, 8, 6, 42, tzinfo=UTC)
    )
    assert stored.key in tour

    ((pair, history),) = visits_of(geofence_event(event.encode()) for event in events).items()
    (visit,) = history.visits
    assert (pair.device_id, *pair.fence) == (
        shown["device_id"],
        shown["geofence_tag"],
        shown["geofence_external_id"],
    )
    assert visit.exited_at is not None
    assert [visit.entered_at, visit.exited_at] == [
        datetime.fromisoformat(shown[name]) for name in ("entered_at", "exited_at")
    ]
    assert visit.dwell_seconds == shown["dwell_seconds"]


def test_kcl_worker_image_contains_exactly_the_project_packages_that_it_imports() -> None:
    copied = re.findall(r"^    COPY (\w+) \1$", (ROOT / "docs" / "consumer.md").read_text(), re.M)
    ours = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    imported = {
        name
        for package in copied
        for path in (ROOT / package).glob("*.py")
        for name in re.findall(r"^ *(?:from|import) (\w+)", path.read_text(), re.M)
    }
    assert "consumer" in copied
    assert (imported & ours) | {"kcl"} == set(copied)


def test_kcl_worker_image_installs_hashed_requirements_in_a_separate_command() -> None:
    """pip would refuse a package without a hash in the same command."""
    page = (ROOT / "docs" / "consumer.md").read_text()
    commands = [words.split() for words in re.findall(r"pip install ([^&\n]+)", page)]
    [hashed] = [words for words in commands if "-r" in words]
    assert "--hash" in (ROOT / hashed[-1]).read_text()
    assert [word for word in hashed if not word.startswith("--")] == ["-r", hashed[-1]]
