"""Test that the committed page files were built from the committed sources."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

CONSOLE = Path(__file__).parents[2] / "tools" / "console"
WEB, STATIC = CONSOLE / "web", CONSOLE / "static"


def hash_of(paths: Iterable[Path], root: Path) -> str:
    """Return the SHA-256 hash of the files' names and contents, sorted by name, as vite.config.ts computes it."""
    digest = hashlib.sha256()
    for name in sorted(str(path.relative_to(root)) for path in paths):
        digest.update(f"{name}\n".encode() + (root / name).read_bytes() + b"\n")
    return digest.hexdigest()


def files_under(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_committed_pages_were_built_from_the_current_sources() -> None:
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
