"""Test that the code and packages of `make demo` use nothing that only Linux has.

The code guards the calls in LINUX_ONLY and paths under /proc with a platform check or by suppressing AttributeError.
No installed package is known to have wheels only for Linux.
"""

import ast
from pathlib import Path

from ops.stage_outputs import ROOT

NEEDED = (
    "contract",
    "aws",
    "cli",
    "handler",
    "consumer",
    "kcl",
    "snowpipe",
    "glue",
    "ops",
    "tools",
    "localstack",
)
LINUX_ONLY = {
    "prctl", "fallocate", "mallopt", "prlimit", "sched_setaffinity", "sched_getaffinity", "memfd_create",
    "epoll", "eventfd", "pidfd_open", "splice", "copy_file_range",
}  # fmt: skip


# The requirement files that `make demo` installs
OF_THE_DEMO = (
    "requirements.txt",
    "localstack/lambda_executor/lambda-requirements.txt",
    "localstack/requirements.txt",
    "snowpipe/dbt/requirements.txt",
)
# The packages among the project's requirements that have wheels only for Linux
LINUX_WHEELS = {"atheris"}


def unguarded(tree: ast.AST, guarded: bool = False) -> list[str]:
    """Return a line for each Linux-only call or /proc path that is guarded neither by `if sys.platform == …`
    nor by `with suppress(AttributeError)`.
    """
    found = []
    for child in ast.iter_child_nodes(tree):
        inside = guarded or (
            isinstance(child, ast.If | ast.With | ast.IfExp)
            and any(name in ast.unparse(child).split(":")[0] for name in ("sys.platform", "AttributeError"))
        )
        if isinstance(child, ast.Attribute) and child.attr in LINUX_ONLY and not inside:
            found.append(f"line {child.lineno}: {child.attr}")
        if isinstance(child, ast.JoinedStr | ast.Constant) and not inside:
            text = ast.unparse(child)
            if text.lstrip("f'\"").startswith("/proc/"):
                found.append(f"line {child.lineno}: {text}")
        found += unguarded(child, inside)
    return found


def sources() -> list[Path]:
    return [
        path
        for name in NEEDED
        for path in sorted((ROOT / name).rglob("*.py"))
        if not {"tests", "node_modules"} & set(path.relative_to(ROOT).parts)
    ]


def test_linux_only_calls_are_guarded_by_a_platform_check_or_by_suppressing_attribute_error() -> None:
    found = {
        str(path.relative_to(ROOT)): names
        for path in sources()
        if (names := unguarded(ast.parse(path.read_text())))
    }
    assert not found


def test_demo_installs_no_package_that_is_known_to_have_wheels_only_for_linux() -> None:
    [targets] = [line for line in (ROOT / "Makefile").read_text().splitlines() if "setup.sh main" in line][:1]
    assert targets.split()[1:] == ["main", "lambda", "localstack", "dbt", "node"]
    for name in OF_THE_DEMO:
        pinned = {line.split("==")[0] for line in (ROOT / name).read_text().splitlines() if "==" in line}
        assert len(pinned) > 5, name
        assert not pinned & LINUX_WHEELS, name
