"""`forget` on Spark finds the same objects as on one machine."""

import dataclasses
from pathlib import Path

from pyspark.sql import SparkSession

from glue.archive import Folder
from glue.forget import Users, candidates, with_spark, with_threads
from tests.unit.glue.test_forget import SECRET, world


def test_both_engines_rewrite_the_same_objects(spark: SparkSession, tmp_path: Path) -> None:
    users, found = Users(frozenset([SECRET, "bob"])), {}
    for engine in ("spark", "threads"):
        store = Folder(tmp_path / engine)
        world(store.path)
        objects = list(candidates(store))
        got = (
            with_spark(spark, store, users, objects)
            if engine == "spark"
            else with_threads(store, users, objects)
        )
        found[engine] = sorted(map(dataclasses.astuple, got), key=repr)
        assert all((store.path / new).exists() for _, new, *_ in found[engine] if new)
    assert found["spark"] == found["threads"] != []
