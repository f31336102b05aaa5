"""Put load on a running local stack at a steady rate, in bursts and on a ramp, and sample its memory and queues."""

import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ops.polling import until
from ops.stage_outputs import Outputs
from tests.load.load_profile import phases
from tests.load.pass_criteria import DRAIN_S, Load, leaks_of
from tests.load.send_load import SENDERS, sent
from tests.load.watch import Watch
from tools.fleet import phones
from tools.fleet.client import Client
from tools.fleet.traffic_parameters import Plan, new_run_id
from tools.stack.settings import Settings

ROOT = Path(__file__).parents[2]
CLIENT_TIMEOUT_S = 120.0


def run(settings: Settings, outputs: Outputs, rate: float, steady_s: float, seed: int) -> Load:
    plan = phases(rate, steady_s)
    posts = phones.endless(
        Plan(run=new_run_id(), begins_at=datetime.now(UTC) - timedelta(hours=8), seed=seed, trucks=40)
    )
    client = Client(outputs.endpoint, outputs.api_key, timeout_s=CLIENT_TIMEOUT_S, connections=SENDERS)
    began_at, began = datetime.now(UTC), time.monotonic()
    with Watch(settings, outputs, began) as watch:
        answers = sent(plan, posts, client, began)
        answered = time.monotonic()
        left = until(watch.waiting, lambda left: not left, timeout_s=DRAIN_S, every_s=1.0)
        drained_s = None if left else time.monotonic() - answered
    leaks = leaks_of(plan, watch.samples)
    return Load(plan, answers, watch.samples, drained_s, reconciled(settings, began_at), leaks)


def reconciled(settings: Settings, since: datetime) -> bool:
    """Return whether `milkrun reconcile` finds that all accepted events are archived and loaded, and all
    geofence events are consumed.

    The command ignores objects that were stored in the last minute.
    """

    def reconcile() -> tuple[int, str]:
        ended = subprocess.run(
            [sys.executable, "-m", "ops", "reconcile", "--from", since.isoformat(), "--json"],
            cwd=ROOT,
            env={**os.environ, "MILKRUN_LOCAL": str(settings.folder)},
            capture_output=True,
            text=True,
            check=False,
        )
        return ended.returncode, ended.stdout + ended.stderr

    code, output = until(reconcile, lambda found: found[0] == 0, timeout_s=90, every_s=5)
    if code:
        print(output[-3000:], file=sys.stderr)
    return code == 0
