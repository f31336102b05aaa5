"""Start a KCL worker in addition to the `consume` function: `make kcl` on this clone's stack, `python -m
tools.stack.start_kcl_worker STAGE` on a deployed stage.

The worker and the function process the same stream. Visits depend only on the set of events, so processing
each event twice does not change them.
"""

import os
import sys
from collections.abc import Mapping, Sequence

from botocore.exceptions import BotoCoreError, ClientError

from cli.command_errors import one_line
from cli.environment import without_proxy_on_loopback
from ops.stage_outputs import ROOT, NoStackError, Outputs
from tools.stack.settings import WITHOUT_AWS_FILES

# Settings that start the worker sooner than in production, where the first record may take two minutes.
IMPATIENT = (
    '{"shardSyncIntervalMillis":1000,"parentShardPollIntervalMillis":1000,"leaseAssignmentIntervalMillis":1000,'
    '"workerMetricsReporterFreqInMillis":1000,"inMemoryWorkerMetricsCaptureFrequencyMillis":500}'
)


def environment_for(outputs: Outputs, stage: str, own: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables of the deployed `consume` function, plus those that a process outside
    Lambda needs.
    """
    consume = outputs.aws("lambda").get_function_configuration(FunctionName=f"milkrun-{stage}-consume")
    local = {
        **WITHOUT_AWS_FILES,
        "AWS_ENDPOINT_URL": outputs.aws_endpoint_url or "",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "KCL_PROPERTIES": IMPATIENT,
    }
    if outputs.aws_endpoint_url:  # the caller's profile or endpoints are of another account
        own = without_proxy_on_loopback({k: v for k, v in own.items() if not k.startswith("AWS_")})
    return {
        **own,
        **consume["Environment"]["Variables"],
        "STREAM_NAME": outputs.stream,
        "AWS_REGION": outputs.region,
        **(local if outputs.aws_endpoint_url else {}),
    }


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    stage = arguments[0] if arguments else "local"
    try:
        found = environment_for(Outputs.find(stage, environment), stage, environment)
    except (NoStackError, BotoCoreError, ClientError) as problem:
        sys.exit(one_line(str(problem)))
    os.chdir(ROOT)
    os.execve(sys.executable, [sys.executable, "-m", "kcl.worker"], found)


if __name__ == "__main__":
    main(sys.argv[1:], os.environ)
