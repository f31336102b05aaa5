"""Test the rotation of the stage's API key: at first both keys are accepted, then only the new one."""

from collections.abc import Callable, Iterator

import pytest

from ops.osls import OSLS, alone
from tests.e2e.pipeline import Pipeline, event, eventually
from tools.stack import deploy
from tools.stack.settings import REGION
from tools.stack.stack import Stack

type Deploy = Callable[[str], None]


@pytest.fixture
def deploy_with(pipeline: Pipeline) -> Iterator[Deploy]:
    """Yield a function that deploys the stage with the API keys of the given numbers, such as "1,2"; afterwards restore
    the stage with key 1.
    """
    if not pipeline.is_local:
        pytest.skip("this test would change the API keys of a deployed stage")
    stack = Stack.of(pipeline.environment)
    environment = stack.settings.aws_environment | {"SLS_AWS_MONITORING_FREQUENCY": "500"}

    def run(live: str) -> None:
        command = [
            OSLS,
            "deploy",
            "--conceal",
            "--stage",
            "local",
            "--region",
            REGION,
            f"--param=apiKeys={live}",
        ]
        with alone():
            deploy.run("rotate", command, environment, stack.processes)

    yield run
    run("1")


@pytest.mark.slow
def test_both_api_keys_are_accepted_during_a_rotation_and_only_the_new_one_afterwards(
    pipeline: Pipeline, device: str, deploy_with: Deploy
) -> None:
    def status_with(key: str) -> int:
        headers = {"content-type": "application/json", "x-api-key": key}
        return pipeline.post(event(device), headers=headers).status

    def keys() -> dict[str, str]:
        found = pipeline.aws("apigateway").get_api_keys(nameQuery="milkrun-local-app", includeValues=True)
        return {key["name"]: key["value"] for key in found["items"]}

    old = pipeline.outputs.api_key
    deploy_with("1,2")
    both = keys()
    assert both["milkrun-local-app"] == old
    new = both["milkrun-local-app-2"]
    assert (status_with(old), status_with(new)) == (202, 202)
    deploy_with("2")
    assert status_with(new) == 202
    assert eventually(lambda: status_with(old) == 403)
