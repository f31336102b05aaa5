"""Test that tools/setup.sh defines the environments that `make spark` and `make airflow` request."""

import re

import pytest

from glue.publish import ROOT


@pytest.mark.parametrize("target", ["spark", "airflow"])
def test_setup_script_defines_every_venv_that_the_make_target_requests(target: str) -> None:
    recipe = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe
    asked = re.search(r"tools/setup\.sh (.+)", recipe[1])
    assert asked
    labels = re.findall(r"^    ([\w| ]+)\)", (ROOT / "tools/setup.sh").read_text(), re.MULTILINE)
    known = {name for label in labels for name in label.split(" | ")}
    assert set(asked[1].split()) <= known
