"""Test which credentials and artifacts the deployment workflow uses, and that the commands in the workflow and the
guides exist.
"""

import re
import threading

import pytest
import yaml

from ops import osls
from snowpipe.cli import app as snowpipe
from tools.check import ROOT
from tools.milkrun import ENTRIES

WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "test-and-deploy.yml").read_text())
DEPLOY = (ROOT / "docs" / "deploy.md").read_text()
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()


def targets():
    return set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def steps():
    return [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]


def test_only_the_deploy_job_of_the_workflow_can_get_aws_credentials():
    text = (ROOT / ".github" / "workflows" / "test-and-deploy.yml").read_text()
    assert not re.search(r"secrets\.AWS", text)
    assert WORKFLOW["permissions"] == {"contents": "read"}
    asking = {name for name, job in WORKFLOW["jobs"].items() if "id-token" in job.get("permissions", {})}
    assert asking == {"deploy"}
    assert WORKFLOW["jobs"]["deploy"]["needs"] == ["test", "package"]


def test_workflow_runs_only_existing_make_targets():
    named = {t for step in steps() for t in re.findall(r"\bmake ([a-z0-9-]+)", step.get("run", ""))}
    assert {"test", "package", "deploy", "smoke"} <= named <= targets()


def test_every_github_action_is_pinned_to_a_commit_and_every_job_has_a_timeout():
    """An action's tag could be moved to other code. (GitHub Docs: "Security hardening for GitHub Actions".)"""
    pinned = re.compile(r"[\w-]+/[\w-]+@[0-9a-f]{40}")
    assert all(pinned.fullmatch(step["uses"]) for step in steps() if "uses" in step)
    assert all(job["timeout-minutes"] <= 60 for job in WORKFLOW["jobs"].values())


def test_deploy_job_builds_nothing_after_it_gets_credentials():
    deploy = WORKFLOW["jobs"]["deploy"]["steps"]
    named = [step.get("uses", step.get("run", "")) for step in deploy]
    [credentials] = [i for i, name in enumerate(named) if name.startswith("aws-actions/")]
    assert "make setup" in named[:credentials]
    assert any(name.startswith("actions/download-artifact") for name in named[:credentials])
    after = named[credentials + 1 :]
    assert [re.findall(r"\bmake (\S+)", name) for name in after] == [["preflight"], ["deploy"], ["smoke"]]
    assert not [name for name in after if re.search(r"\b(npm|npx|pip|uv|python\d*|tools/)\b", name)]
    assert [name for name in named if name.startswith("actions/checkout")]
    assert all(
        step["with"]["persist-credentials"] is False
        for step in steps()
        if step.get("uses", "").startswith("actions/checkout")
    )


def test_job_with_the_upgrade_tests_checks_out_the_history_that_they_need():
    """Without the history, they are skipped."""
    [job] = [
        job
        for job in WORKFLOW["jobs"].values()
        if any(step.get("run") == "make e2e-slow" for step in job["steps"])
    ]
    [checkout] = [step for step in job["steps"] if step.get("uses", "").startswith("actions/checkout")]
    assert checkout["with"]["fetch-depth"] == 0


def test_workflow_deploys_the_zips_that_it_tested():
    jobs = WORKFLOW["jobs"]
    uploads = [s for s in jobs["test"]["steps"] if s.get("uses", "").startswith("actions/upload-artifact")]
    assert [upload["with"]["name"] for upload in uploads] == ["zips"]
    for name in ("package", "deploy"):
        assert "test" in jobs[name]["needs"]
        downloads = [
            s for s in jobs[name]["steps"] if s.get("uses", "").startswith("actions/download-artifact")
        ]
        assert [download["with"] for download in downloads] == [{"name": "zips", "path": "dist/arm64"}]
        # `make preflight` packages the stage, too.
        makes = [
            s for s in jobs[name]["steps"] if re.match(r"make (package|preflight|deploy) ", s.get("run", ""))
        ]
        assert [step["env"] for step in makes] == [{"MILKRUN_ZIPS": "tested"}] * len(makes)


def test_smoke_step_of_the_workflow_fails_if_github_issues_no_token():
    [smoke] = [s for s in WORKFLOW["jobs"]["deploy"]["steps"] if s.get("name") == "smoke test"]
    assert smoke["shell"] == "bash"  # with pipefail, unlike the workflow's default shell


@pytest.mark.parametrize(
    ("given", "run"),
    [
        (["deploy", "--stage", "dev"], ["deploy", "--conceal", "--stage", "dev"]),
        (["info"], ["info", "--conceal"]),
        (["deploy", "list"], ["deploy", "list"]),
        (["package", "--stage", "dev"], ["package", "--stage", "dev"]),
    ],
    ids=["deploy", "info", "list", "package"],
)
def test_osls_deploy_and_info_conceal_the_api_key(given, run):
    assert osls.concealed(given) == run


def test_npm_packages_are_installed_without_running_their_scripts():
    for name in ("tools/setup.sh", "Makefile"):
        text = (ROOT / name).read_text()
        assert text.count("npm ci") == text.count("--ignore-scripts") == 1, name


def names(app):
    return {
        command.name or command.callback.__name__.replace("_", "-") for command in app.registered_commands
    }


def test_commands_in_the_deployment_guide_and_the_runbook_exist():
    text = DEPLOY + RUNBOOK
    named = set(re.findall(r"(?:^    |`)(?:\./)?milkrun ([a-z-]+)", text, re.MULTILINE))
    assert {"smoke", "reconcile", "warehouse"} <= named <= {entry.name for entry in ENTRIES}
    assert {"apply", "bootstrap"} <= set(re.findall(r"milkrun warehouse ([a-z-]+)", text)) <= names(snowpipe)
    assert "preflight" in (makes := set(re.findall(r"\bmake ([a-z][a-z0-9-]*)(?= |`|$)", text, re.MULTILINE)))
    assert makes <= targets()


def test_packaging_error_of_osls_is_shown_without_its_stack_trace():
    stack = "    at async VariablesResolver.resolveVariables (node_modules/osls/lib/resolve.js:131:5)\n" * 14
    reason = 'Cannot resolve "alarms.js": Returned JS function errored with: Error: logLevel is "WARN": set it to INFO'
    environment = "Environment: linux, node 22.13.0, osls 4.3.1 (local)"
    assert osls.error_in(f"Error:\n{reason}\n{stack}\n{environment}\n") == f"{reason}\n\n{environment}"
    assert osls.error_in("killed") == "killed"


def test_osls_command_says_that_it_waits_for_another_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(osls, "ROOT", tmp_path)
    held, done = threading.Event(), threading.Event()

    def other():
        with osls.alone():
            held.set()
            done.wait(5)

    thread = threading.Thread(target=other)
    thread.start()
    held.wait(5)
    threading.Timer(0.05, done.set).start()
    with osls.alone():
        assert "Waiting for another command" in capsys.readouterr().err
    thread.join()
    with osls.alone():
        assert capsys.readouterr().err == ""
