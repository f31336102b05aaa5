"""What `make spark` and `make airflow` ask of tools/setup.sh is there."""

import re

import pytest

from glue.publish import ROOT


@pytest.mark.parametrize("target", ["spark", "airflow"])
def test_setup_knows_each_environment_that_a_target_asks_for(target: str) -> None:
    recipe = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe
    asked = re.search(r"tools/setup\.sh (.+)", recipe[1])
    assert asked
    labels = re.findall(r"^    ([\w| ]+)\)", (ROOT / "tools/setup.sh").read_text(), re.MULTILINE)
    known = {name for label in labels for name in label.split(" | ")}
    assert set(asked[1].split()) <= known
