"""Compare the packaged template of 2026-11-23 with this version's, as CloudFormation would in an update.

CloudFormation replaces a resource if a create-only property changes, for example an API key's name or a
table's keys. LocalStack does not replace resources in the same way, so the comparison uses CloudFormation's
resource schemas, which are part of cfn-lint.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from cfnlint.schema import PROVIDER_SCHEMA_MANAGER

from ops import osls
from tests.rehearsals.earlier import Earlier

LASTING = (
    "AWS::ApiGateway::RestApi",
    "AWS::ApiGateway::ApiKey",
    "AWS::S3::Bucket",
    "AWS::Kinesis::Stream",
    "AWS::DynamoDB::Table",
    "AWS::SQS::Queue",
    "AWS::SNS::Topic",
    "AWS::Events::EventBus",
)


def test_upgrade_of_a_deployed_stage_replaces_only_snowflakes_role_and_the_dashboard(tmp_path: Path) -> None:
    before, after = _earlier_template(tmp_path)["Resources"], osls.packaged("dev", os.environ)
    lasting = {name for name, resource in before.items() if resource["Type"] in LASTING}
    assert {before[name]["Type"] for name in lasting} == set(LASTING)
    assert lasting <= set(after), "CloudFormation deletes resources that the new template does not contain"
    assert set(_replaced(before, after)) == {"SnowflakeRole", "Dashboard"}


def _earlier_template(folder: Path) -> dict[str, object]:
    """Package the dev stage with the earlier version; return its CloudFormation template."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    nobody = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nobody", "AWS_REGION": "us-east-1"}
    earlier = Earlier.unpack(folder, kept | nobody)
    earlier.osls("package", "--stage", "dev", "--package", "packaged")
    template = folder / "packaged" / "cloudformation-template-update-stack.json"
    found: dict[str, object] = json.loads(template.read_text())
    return found


def _replaced(before: Mapping[str, object], after: Mapping[str, object]) -> Iterator[str]:
    """Yield the logical ids of resources whose type or create-only properties differ between the two templates."""
    for name in set(before) & set(after):
        old, new = before[name], after[name]
        schema = PROVIDER_SCHEMA_MANAGER.get_resource_schema("us-east-1", old["Type"]).schema
        create_only = schema.get("createOnlyProperties", [])
        if old["Type"] != new["Type"] or any(_at(old, path) != _at(new, path) for path in create_only):
            yield name


def _at(resource: Mapping[str, object], path: str) -> object:
    """Return the property at a path such as `/properties/VpcConfig/SubnetIds`; for a path with `*`, return
    the whole list.
    """
    value: object = resource.get("Properties", {})
    for name in path.split("/")[2:]:
        if name == "*" or not isinstance(value, Mapping):
            break
        value = value.get(name)
    return value
