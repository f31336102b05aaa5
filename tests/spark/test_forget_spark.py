"""Test that `forget` with Spark rewrites the same objects as `forget` without Spark."""

import dataclasses
from functools import partial
from pathlib import Path

from pyspark.sql import SparkSession

from glue.archive import Folder
from glue.forget import all_seen, candidates, with_spark, with_threads
from glue.person import Subject, follow
from tests.unit.glue.test_forget import SECRET, world


def test_spark_rewrites_the_same_objects_as_the_local_engine(spark: SparkSession, tmp_path: Path) -> None:
    subject, found = Subject.of([SECRET, "bob"]), {}
    for engine in ("spark", "threads"):
        store = Folder(tmp_path / engine)
        world(store.path)
        objects = list(candidates(store))
        if engine == "spark":
            followed = follow(subject, with_spark(spark, objects, partial(all_seen, store, subject)))
            got = with_spark(spark, objects, partial(with_threads, store, followed.subject))
        else:
            followed = follow(subject, all_seen(store, subject, objects))
            got = with_threads(store, followed.subject, objects)
        assert followed.subject.own_devices
        found[engine] = sorted(map(dataclasses.astuple, got), key=repr)
        assert all((store.path / new).exists() for _, new, *_ in found[engine] if new)
    assert found["spark"] == found["threads"] != []
