"""Each part broken under load; then every promise must hold. What each came to is in docs/reliability.md."""

from tests.faults.proxy import Fault, Rule
from tests.faults.story import Story, met


def test_s3_refuses_every_put_for_a_while(story: Story) -> None:
    with story.under_load():
        fault = Rule(Fault.REFUSED, "s3", "PutObject", "ingest")
        with story.broken(fault):
            met(fault, 12)


def test_kinesis_throttles_every_call_until_the_redrive_queue_fills(story: Story) -> None:
    with story.under_load():
        fault = Rule(Fault.THROTTLED, "kinesis")
        with story.broken(fault):
            met(fault, 40)


def test_ingest_is_killed_between_s3_and_kinesis(story: Story) -> None:
    with story.under_load():
        fault = Rule(Fault.KILL_BEFORE, "kinesis", "PutRecords", "ingest", times=4)
        with story.broken(fault):
            met(fault, 4)
