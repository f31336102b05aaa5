"""Connect to loopback without a proxy and, except against a deployed stage, ignore the caller's AWS settings."""

import os

from cli.environment import without_proxy_on_loopback

if os.environ.get("MILKRUN_E2E_OUTPUTS", ".json").endswith(".json"):  # not the name of a stage
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
os.environ.update(without_proxy_on_loopback(os.environ))
