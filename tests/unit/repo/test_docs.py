"""The tour and the decisions name files of this repository, so a renamed file must be renamed there too."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
TOUR = ROOT / "docs" / "tour.md"
DECISIONS = sorted((ROOT / "docs" / "adr").glob("*.md"))
PAGES = [str(page.relative_to(ROOT)) for page in [TOUR, *DECISIONS] if page.exists()]
TOP_LEVEL = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
# Prefixes in S3 and paths that only exist once something has run.
NOT_FILES = {"events", "rejected", "set-aside"}


def named_paths(markdown: str) -> set[str]:
    """Paths from the root in inline code, such as `handler/main.py` or `docs/adr/`."""
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
def test_every_path_on_a_page_exists(page: str) -> None:
    path = ROOT / page
    text = path.read_text()
    missing = [name for name in sorted(named_paths(text)) if not (ROOT / name).exists()]
    missing += [link for link in sorted(linked_pages(text)) if not (path.parent / link).exists()]
    assert missing == []


def test_index_lists_every_decision() -> None:
    index = (ROOT / "docs" / "adr" / "README.md").read_text()
    pages = {page.name for page in DECISIONS if page.name != "README.md"}
    assert set(re.findall(r"\((\d{4}-[a-z0-9-]+\.md)\)", index)) >= pages
    numbers = [int(name[:4]) for name in pages]
    assert sorted(numbers) == list(range(1, len(numbers) + 1))


def test_a_path_that_does_not_exist_is_found() -> None:
    assert named_paths("see `handler/gone.py`, `events/dt=…`, `events/` and `ops visits`") == {
        "handler/gone.py"
    }
