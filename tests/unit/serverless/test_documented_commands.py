"""Test that the `aws`, `osls` and `milkrun` commands in the documentation exist and accept the options used there.

`aws` commands are checked against botocore's service models, from which the AWS CLI generates its commands and
options, `osls` commands against osls's own schema, and `milkrun` commands against their own definitions.
"""

import json
import re
import shlex
import subprocess
from functools import cache
from pathlib import Path

import botocore.session
import pytest
from botocore import xform_name
from botocore.exceptions import UnknownServiceError

from ops.terminal import Verbs
from tools.check import ROOT
from tools.milkrun import loaded

DOCUMENTS = sorted(
    p for p in [ROOT / "README.md", *(ROOT / "docs").glob("**/*.md")] if p.name != "operating.md"
)
# The global options of `aws` that the documentation may use. (AWS CLI User Guide: "Command line options in the AWS
# CLI".)
EVERY_AWS_COMMAND = {"--query", "--output", "--region", "--profile", "--endpoint-url", "--no-cli-pager"}
# The AWS CLI's high-level commands, which are not operations of a service.
AWS_OWN = {
    ("s3", "ls"): {"--recursive", "--human-readable", "--summarize"},
    ("s3", "cp"): {"--recursive", "--exclude", "--include", "--dryrun"},
    ("s3", "rm"): {"--recursive", "--exclude", "--include", "--dryrun"},
    ("s3", "sync"): {"--exclude", "--include", "--delete", "--dryrun"},
    ("logs", "tail"): {"--since", "--follow", "--format", "--filter-pattern"},
    ("cloudformation", "deploy"): {
        "--template-file",
        "--stack-name",
        "--capabilities",
        "--parameter-overrides",
        "--no-fail-on-empty-changeset",
    },
}


def commands_in(text: str) -> list[str]:
    """Return a document's inline code, and each line of its fenced code and indented blocks."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    blocks = [line for block in fenced for line in block.splitlines()]
    indented = re.findall(r"^    (.+)$", text, re.MULTILINE)
    return [*re.findall(r"`([^`\n]+)`", text), *blocks, *indented]


def words(command: str) -> list[str]:
    try:
        return shlex.split(command, comments=True)
    except ValueError:  # in prose, an apostrophe is an unclosed quote
        return []


def calls(program: tuple[str, ...]) -> list[tuple[str, list[str]]]:
    """Return ("document: command", arguments) for each documented call of a program.

    `program` contains the program's words, such as ("npx", "osls").
    """
    found = []
    for document in DOCUMENTS:
        for command in commands_in(document.read_text()):
            given = words(command)
            while given and re.fullmatch(r"[A-Z_]+=\S*", given[0]):
                given = given[1:]
            for start in range(len(given)):
                if tuple(given[start : start + len(program)]) == program and (
                    start == 0 or program[0] != "aws"
                ):
                    found.append((f"{document.name}: {command}", given[start + len(program) :]))
                    break
    return found


def options(arguments: list[str]) -> set[str]:
    until = next(
        (i for i, word in enumerate(arguments) if word in ("|", ">", "&&", ";", "--")), len(arguments)
    )
    return {word.split("=")[0] for word in arguments[:until] if re.fullmatch(r"--[a-z][\w-]*(=.*)?", word)}


@cache
def aws_options(service: str, operation: str) -> set[str]:
    """Return the options that the AWS CLI accepts for an operation."""
    if own := AWS_OWN.get((service, operation)):
        return own | EVERY_AWS_COMMAND
    try:
        model = botocore.session.get_session().get_service_model("s3" if service == "s3api" else service)
    except UnknownServiceError:
        pytest.fail(f"the AWS CLI has no service {service}")
    names = {xform_name(name, "-"): name for name in model.operation_names}
    assert operation in names, f"{service} has no {operation}"
    shape = model.operation_model(names[operation]).input_shape
    found = set(EVERY_AWS_COMMAND)
    for name, member in (shape.members if shape else {}).items():
        option = xform_name(name, "-")
        found |= {f"--{option}", f"--no-{option}"} if member.type_name == "boolean" else {f"--{option}"}
    return found


def test_every_documented_aws_command_has_a_valid_operation_and_valid_options():
    found = [(where, a) for where, a in calls(("aws",)) if len(a) >= 2 and re.fullmatch(r"[a-z0-9-]+", a[1])]
    assert len(found) > 10
    for where, (service, operation, *rest) in found:
        # The CLI adds its own options for pagination.
        known = aws_options(service, operation) | {"--max-items", "--starting-token"}
        assert options(rest) <= known, where


@cache
def osls_commands() -> dict[str, set[str]]:
    script = (
        "const out = {};"
        "for (const [name, { options }] of require('osls/lib/cli/commands-schema/aws-service.js'))"
        " out[name] = Object.keys(options || {});"
        "process.stdout.write(JSON.stringify(out));"
    )
    done = subprocess.run(["node", "-e", script], cwd=ROOT, check=True, capture_output=True, text=True)
    return {name: {f"--{option}" for option in options} for name, options in json.loads(done.stdout).items()}


def test_every_documented_osls_command_exists_and_accepts_the_documented_options():
    found = calls(("npx", "osls"))
    assert found
    for where, arguments in found:
        name = max(
            (n for n in osls_commands() if n and arguments[: len(n.split())] == n.split()),
            key=len,
            default="",
        )
        assert name, where
        assert options(arguments) <= osls_commands()[name] | {"--stage", "--region", "--param"}, where


MILKRUN = loaded()


def of(arguments: list[str], where: str) -> set[str]:
    """Return the options of the `milkrun` command that these arguments select. Fail if the command does not exist."""
    command = MILKRUN
    for word in arguments:
        known = getattr(command, "commands", {})
        if word not in known:
            may_be_left_out = not known or isinstance(command, Verbs)
            assert may_be_left_out or word.startswith(("-", "…")), where
            break
        command = known[word]
    if isinstance(command, Verbs):  # if no verb is given, the first one runs
        command = next(iter(command.commands.values()))
    return {option for parameter in command.params for option in [*parameter.opts, *parameter.secondary_opts]}


def test_every_documented_milkrun_command_exists_and_accepts_the_documented_options():
    found = [call for program in ("milkrun", "./milkrun") for call in calls((program,))]
    assert len(found) > 40
    for where, arguments in found:
        if arguments[:2] == ["warehouse", "dbt"]:  # passes its arguments to dbt
            continue
        assert options(arguments) <= of(arguments, where) | {"--help", "--json"}, where


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_to_a_section_of_the_documentation_is_valid(document: Path):
    text = document.read_text()
    for target, anchor in re.findall(r"\]\(([\w./-]*)#([\w-]+)\)", text):
        other = (document.parent / target).resolve() if target else document
        assert anchor in anchors(other.read_text()), f"{target}#{anchor}"


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub generates for the headings of a page."""
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}
