"""The workflow has no keys and runs make targets that exist; the guide's commands exist."""

import re

import yaml

from snowpipe.cli import app as snowpipe
from tools.check import ROOT
from tools.milkrun import app as ops

WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "deploy.yml").read_text())
DEPLOY = (ROOT / "docs" / "deploy.md").read_text()
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()


def targets():
    return set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def steps():
    return [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]


def test_no_key_of_aws_is_in_the_workflow_and_only_the_deployment_may_ask_for_one():
    text = (ROOT / ".github" / "workflows" / "deploy.yml").read_text()
    assert not re.search(r"secrets\.AWS", text)
    assert WORKFLOW["permissions"] == {"contents": "read"}
    asking = {name for name, job in WORKFLOW["jobs"].items() if "id-token" in job.get("permissions", {})}
    assert asking == {"deploy"}
    assert WORKFLOW["jobs"]["deploy"]["needs"] == ["test", "package"]


def test_the_workflow_runs_make_targets_that_exist():
    named = {t for step in steps() for t in re.findall(r"\bmake ([a-z-]+)", step.get("run", ""))}
    assert {"test", "package", "deploy", "smoke"} <= named <= targets()


def test_every_action_is_pinned_and_every_job_has_an_end():
    assert all("@v" in step["uses"] for step in steps() if "uses" in step)
    assert all(job["timeout-minutes"] <= 60 for job in WORKFLOW["jobs"].values())


def names(app):
    return {
        command.name or command.callback.__name__.replace("_", "-") for command in app.registered_commands
    }


def test_the_commands_of_the_guide_and_the_runbook_exist():
    text = DEPLOY + RUNBOOK
    assert set(re.findall(r"-m ops ([a-z-]+)", text)) <= names(ops)
    assert set(re.findall(r"-m snowpipe ([a-z-]+)", text)) <= names(snowpipe)
    assert set(re.findall(r"\bmake ([a-z]+)(?= |`|$)", text)) <= targets()
