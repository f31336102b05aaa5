"""Test that `milkrun warehouse refresh` loads no file again after a pipe was replaced and its load history was lost."""

from collections.abc import Iterator

import pytest

from local_snowflake.testing import Aws, LocalProcess
from snowpipe import loading
from snowpipe.archive import Archive
from snowpipe.pipes import Kind, Pipe
from tests.unit.ops.stage import Stage


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with Aws.running() as aws:
        process = LocalProcess(tmp_path_factory.mktemp("local") / "snowflake", aws.endpoint).start()
        yield Stage(aws, process)
        assert process.stop() == 0


def test_refresh_after_replacing_the_pipe_loads_no_file_twice(stage: Stage) -> None:
    stage.put(b'{"_id": "loaded"}')
    stage.loaded()
    stage.raw.pipe(replace=True)
    pipe = Pipe(stage.outputs.database, Kind.events)
    with stage.outputs.warehouse() as warehouse:
        found = loading.refresh(warehouse, pipe, Archive(stage.s3, stage.bucket.name))
    assert (found.sent, found.out_of_reach) == ([], [])
