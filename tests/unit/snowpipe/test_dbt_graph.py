"""Test that every dbt test runs in Airflow, whose tasks test one model each (ops/nightly.py)."""

import json
import os
from pathlib import Path

from snowpipe.run_dbt import dbt
from snowpipe.settings import load


def test_every_dbt_test_has_a_model_that_is_built_after_all_others_that_it_reads(tmp_path: Path) -> None:
    """With `--indirect-selection buildable`, only the task of such a model runs the test."""
    account = {"SNOWFLAKE_ACCOUNT": "org-account", "SNOWFLAKE_DATABASE": "MILKRUN_DEV"}
    user = {"SNOWFLAKE_USER": "u", "SNOWFLAKE_PASSWORD": "p", "MILKRUN_LOCAL": str(tmp_path)}
    assert dbt(["parse", "--quiet"], load(account | user), os.environ) == 0
    manifest = json.loads((tmp_path / "dbt/target/manifest.json").read_text())
    reads: dict[str, set[str]] = {
        name: {parent for parent in parents if parent.startswith("model.")}
        for name, parents in manifest["parent_map"].items()
    }

    def built_before(model: str) -> set[str]:
        return reads[model].union(*map(built_before, reads[model]))

    never_run = [
        name
        for name, read in reads.items()
        if name.startswith("test.") and not any(read <= {model} | built_before(model) for model in read)
    ]
    assert never_run == []
