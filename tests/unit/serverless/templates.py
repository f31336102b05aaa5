"""Read the templates that `osls package` generates from serverless.yml."""

import re
from functools import cache

from tools import check

STAGES = check.STAGES
EVERYTHING = "prod-glue"  # prod with everything that a parameter can enable
resources = cache(check.resources)


def of_type(stage: str, kind: str) -> dict[str, dict[str, object]]:
    """Return the properties of all resources of a type in a stage's template, keyed by logical id."""
    return {
        name: resource.get("Properties", {})
        for name, resource in resources(stage).items()
        if resource["Type"] == kind
    }


def properties(stage: str, name: str) -> dict[str, object]:
    found: dict[str, object] = resources(stage)[name]["Properties"]
    return found


def spelled(value: object) -> str:
    """Return the resource of an IAM statement in short form, such as `ArchiveBucket/events/*` or `GeofenceStream`."""
    match value:
        case {"Fn::GetAtt": [name, "Arn"]} | {"Ref": name}:
            return str(name)
        case {"Fn::Sub": str(text)}:
            text = re.sub(r"^arn:.*:parameter(?=/)", "", text)
            return text.replace("${ArchiveBucket.Arn}", "ArchiveBucket")
        case str():
            return value
    raise AssertionError(f"neither a name nor a reference: {value}")


def many(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]
