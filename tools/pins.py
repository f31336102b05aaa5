"""Check offline that every direct dependency is pinned in the requirements*.txt of its environment, with hashes.

`tools/lock.sh` writes these files; the check fails if a dependency was changed without running that script.
The check also fails if a tracked file contains the host name of a package registry, because a lock file with
such a name cannot be used with a mirror.
"""

import re
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
# Dependency groups with their own environment. tools/lock.sh resolves the other groups together with the project.
OWN_ENVIRONMENT = {"checkov"}
# Groups that are only part of another group.
INCLUDED_ONLY = {"kcl"}
# The stand-alone packages, with the requirements of the environment in which they are installed.
INSTALLED_IN = {
    "localstack/snowflake": "requirements.txt",
    "tools/conformance": "requirements.txt",
    "localstack/lambda_executor": "localstack/requirements.txt",
}
REGISTRY = re.compile(r"\b(?:pypi|pythonhosted|registry\.npmjs|registry\.yarnpkg)\.(?:org|com)\b")


@dataclass
class Pins:
    """The content of a requirements*.txt file: the pinned versions by package, and the packages whose pin has
    no hash.
    """

    versions: dict[str, set[str]] = field(default_factory=dict)
    without_hash: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> "Pins":
        pins = cls()
        for block in re.split(r"\n(?=\S)", path.read_text()):
            if pin := re.match(r"([\w.-]+)==([^\s;]+)", block):
                name = canonicalize_name(pin[1])
                pins.versions.setdefault(name, set()).add(pin[2])
                if "--hash=sha256:" not in block:
                    pins.without_hash.append(name)
        return pins

    def satisfies(self, requirement: Requirement) -> bool:
        versions = self.versions.get(canonicalize_name(requirement.name), set())
        return bool(versions) and all(requirement.specifier.contains(v, prereleases=True) for v in versions)


def direct_dependencies(root: Path) -> Iterator[tuple[str, str, str]]:
    """Yield each direct dependency: the declaring file, the requirement, and the requirements file that must
    pin it.
    """
    pyproject = tomllib.loads((root / "pyproject.toml").read_text())
    for requirement in pyproject["project"]["dependencies"]:
        yield "pyproject.toml [project]", requirement, "requirements.txt"
    groups = pyproject["dependency-groups"]
    for group in groups:
        for requirement in members(groups, group):
            target = f"requirements-{group}.txt"
            if group not in INCLUDED_ONLY:
                yield f"pyproject.toml group {group}", requirement, target
    for folder, target in INSTALLED_IN.items():
        own = tomllib.loads((root / folder / "pyproject.toml").read_text())["project"]
        for requirement in own.get("dependencies", ()):
            yield f"{folder}/pyproject.toml", requirement, target
    for source in sorted(
        each for depth in ("*", "*/*", "*/*/*") for each in root.glob(f"{depth}/*requirements.in")
    ):
        name = source.relative_to(root).as_posix()
        for line in source.read_text().splitlines():
            if requirement := line.partition("#")[0].strip():
                yield name, requirement, name.removesuffix(".in") + ".txt"


def members(groups: dict[str, list[str | dict[str, str]]], group: str) -> Iterator[str]:
    """Yield the requirements of a dependency group, including those of its included groups (PEP 735)."""
    for member in groups[group]:
        if isinstance(member, str):
            yield member
        else:
            yield from members(groups, member["include-group"])


def shared_files(root: Path) -> list[str]:
    """Return the names of the requirements files of .venv and of the functions, which must have the same versions."""
    groups = tomllib.loads((root / "pyproject.toml").read_text())["dependency-groups"]
    return ["requirements.txt"] + [
        f"requirements-{g}.txt" for g in groups if g not in OWN_ENVIRONMENT | INCLUDED_ONLY
    ]


def problems(root: Path) -> Iterator[str]:
    """Yield an error message for each dependency that is not pinned as declared, whose pin has no hash, or that is
    pinned to different versions in two of the `shared_files`.
    """
    read: dict[str, Pins] = {}
    for source, text, target in direct_dependencies(root):
        if not (root / target).exists():
            yield f"{target} does not exist, but {source} needs it"
            continue
        pins = read.setdefault(target, Pins.read(root / target))
        if not pins.satisfies(Requirement(text)):
            found = sorted(pins.versions.get(canonicalize_name(Requirement(text).name), ()))
            pinned = f"pins {', '.join(found)}, which does not satisfy" if found else "does not pin"
            yield f"{target} {pinned} {text} of {source}; run make lock"
    for target, pins in read.items():
        yield from (f"{target}: {name} has no hash" for name in pins.without_hash)
    together: dict[str, set[str]] = {}
    for target in shared_files(root):
        for name, versions in read.get(target, Pins()).versions.items():
            if versions != together.setdefault(name, versions):
                yield f"{target}: {name} has a different version in another requirements file; run make lock"


def registry_hosts(root: Path) -> Iterator[str]:
    """Yield an error message for each line in a tracked file that contains the host name of a package registry."""
    names = subprocess.check_output(["git", "ls-files", "-z"], cwd=root, text=True).split("\0")
    for name in filter(None, names):
        path = root / name
        if not path.is_file():
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if REGISTRY.search(line):
                yield f"{name}:{number} contains the host name of a package registry"
