"""The committed pages are what the committed sources build to."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

CONSOLE = Path(__file__).parents[2] / "tools" / "console"
WEB, STATIC = CONSOLE / "web", CONSOLE / "static"


def hash_of(paths: Iterable[Path], root: Path) -> str:
    """As vite.config.ts has it: each file's name and content, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(str(path.relative_to(root)) for path in paths):
        digest.update(f"{name}\n".encode() + (root / name).read_bytes() + b"\n")
    return digest.hexdigest()


def files_under(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_the_pages_are_built_from_these_sources_and_nobody_edited_them() -> None:
    record = json.loads((STATIC / "built-from.json").read_text())
    top = (
        "index.html",
        "package.json",
        "package-lock.json",
        "vite.config.ts",
        "base-map.mjs",
        "tsconfig.json",
    )
    sources = [path for path in files_under(WEB / "src") if path.name != "base.json"]
    sources += [WEB / name for name in top] + files_under(WEB / "public")
    files = [path for path in files_under(STATIC) if path.name != "built-from.json"]
    assert hash_of(sources, WEB) == record["sources"], "the sources changed: run make console-web"
    assert hash_of(files, STATIC) == record["files"], "the built files changed: run make console-web"


def test_the_lock_file_names_no_registry() -> None:
    assert '"resolved"' not in (WEB / "package-lock.json").read_text()
