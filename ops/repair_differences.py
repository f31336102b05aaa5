"""`milkrun reconcile --repair`: load missing objects, replace rows that differ, and send events to the stream again."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from aws.stream import KinesisStream
from cli.command_errors import one_line
from cli.counts import count
from cli.refusal import Refusal
from contract.geofence_event_types import Kind
from ops import terminal
from ops.object_sets import MEANINGS, MENDABLE, Difference
from ops.replay import lines_again
from ops.send_to_stream import Pace
from ops.stage_outputs import Outputs
from snowpipe import loading
from snowpipe.archive import Archive
from snowpipe.deployed_stage import Stage
from snowpipe.pipes import Pipe
from snowpipe.settings import Aws, Settings
from snowpipe.warehouse import Warehouse

QUEUED = "queued by REFRESH"


class Repairer:
    """Repairs the differences that a comparison found."""

    def __init__(
        self, outputs: Outputs, warehouse: Warehouse, archive: Archive, kinds: Mapping[str, Kind]
    ) -> None:
        self._outputs = outputs
        self._warehouse = warehouse
        self._archive = archive
        self._kinds = kinds
        aws = Aws(region=outputs.region, aws_endpoint_url=outputs.aws_endpoint_url, bucket=outputs.bucket)
        settings = Settings(connection=outputs.snowflake, aws=aws, folder=Path(), source="outputs")
        self._stage = Stage(settings)

    def repair(self, differences: Sequence[Difference]) -> list[dict[str, object]]:
        """Repair differences; return rows that say what was done. A repair that fails does not stop the others."""
        done: list[dict[str, object]] = []
        for key in (d.key for d in differences if d.kind == "rows_differ"):
            done += self._trying(key, self._reload(key))
        for pipe in self._stage.pipes():
            keys = [d.key for d in differences if d.kind == "not_loaded" and d.key.startswith(pipe.prefix)]
            if keys:
                done += self._trying(count(len(keys), "object"), self._load(pipe, keys))
        again = [(d.key, d.line) for d in differences if d.kind == "not_consumed" and d.line is not None]
        if again:
            done += self._trying(count(len(again), "geofence event"), self._publish(again))
        done += (
            {"key": d.key, "did": f"nothing: {MEANINGS[d.kind]}; check it by hand"}
            for d in differences
            if d.kind not in MENDABLE
        )
        return done

    def _trying(self, key: str, mending: Iterator[dict[str, object]]) -> Iterator[dict[str, object]]:
        try:
            yield from mending
        except (Refusal, *terminal.AWS_ERRORS) as error:
            yield {"key": key, "did": f"nothing: {one_line(str(error))}"}

    def _load(self, pipe: Pipe, keys: Sequence[str]) -> Iterator[dict[str, object]]:
        """Queue objects with REFRESH. If REFRESH skips an object, load the object with COPY and FORCE = TRUE."""
        left = set(keys)
        for prefix in sorted({key.rpartition("/")[0] + "/" for key in keys}):
            left -= set(loading.refresh(self._warehouse, pipe, self._archive, prefix).sent)
        for key in keys:
            if key not in left:
                yield {"key": key, "did": QUEUED}
        copy = self._copy_statement(pipe)
        for row in loading.copy_files(self._warehouse, pipe, copy, sorted(left), force=True):
            yield {"key": row["key"], "did": f"COPY with FORCE: {row['status']}, {count(row['rows'], 'row')}"}

    def _reload(self, key: str) -> Iterator[dict[str, object]]:
        [pipe] = [pipe for pipe in self._stage.pipes() if key.startswith(pipe.prefix)]
        row = loading.reload(self._warehouse, pipe, self._archive, self._copy_statement(pipe), key)
        yield {
            "key": key,
            "did": f"COPY with FORCE: {count(row['rows'], 'row')}; {count(row['rows_deleted'], 'earlier row')} deleted",
        }

    def _publish(self, lines: Sequence[tuple[str, int]]) -> Iterator[dict[str, object]]:
        label = f"reconcile-{datetime.now(UTC):%Y%m%dT%H%M%S}"
        stream = KinesisStream(self._outputs.access().client("kinesis"), self._outputs.stream)
        sent = lines_again(self._archive, stream, lines, label, Pace(200), self._kinds)
        yield {
            "key": count(sent, "geofence event"),
            "did": f"sent to the stream again, labelled {label}",
        }

    def _copy_statement(self, pipe: Pipe) -> str:
        return self._stage.definition(pipe).copy_statement
