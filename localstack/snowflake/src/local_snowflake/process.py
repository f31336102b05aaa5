"""Create the components of the local Snowflake, and run them until it is stopped."""

import asyncio
import logging
import socket
import sys
import warnings
from math import ceil
from pathlib import Path

import pyarrow as pa
import structlog
import uvicorn

from local_snowflake.access import Access
from local_snowflake.authorize import Authority
from local_snowflake.catalog import Catalog
from local_snowflake.channel import Aws, Channels
from local_snowflake.clock import AdvancedClock
from local_snowflake.commands import Commands
from local_snowflake.copy_by_hand import Bulk
from local_snowflake.databases import Databases
from local_snowflake.delivery import Delivery, InOrder
from local_snowflake.engine import DurableFakeSnow, lock
from local_snowflake.integrations import Integrations
from local_snowflake.loader import Loader
from local_snowflake.pipes import Pipes
from local_snowflake.read_privileges import Reading
from local_snowflake.roles import Roles
from local_snowflake.seconds_range import Latency
from local_snowflake.server import LocalSnowflake, fakesnow_server
from local_snowflake.snowpipe import Ingest
from local_snowflake.stages import Stages
from local_snowflake.system_functions import Functions
from local_snowflake.unenforced import Unenforced

log = structlog.get_logger()


class Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            port = listener.getsockname()[1]
            print(f"local Snowflake ready at http://127.0.0.1:{port}", flush=True)
            log.info("started", port=port)


class Process:
    def __init__(
        self,
        folder: Path,
        *,
        aws_endpoint_url: str,
        region: str,
        login: tuple[str, str] | None,
        seed: int | None,
        latency: Latency,
        days_ahead: float,
        visibility_seconds: int,
        memory_limit: str,
        privileges: bool,
    ) -> None:
        self._lock = lock(folder)
        pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own pool keeps memory that is no longer used
        # fakesnow's code causes this warning, which does not concern the user.
        warnings.filterwarnings("ignore", "Arrow output on a DB-API result")
        self.fakesnow = DurableFakeSnow(folder, memory_limit)
        fakesnow_server.shared_fs = self.fakesnow
        logging.getLogger("sqlglot").setLevel(logging.ERROR)
        logging.getLogger("fakesnow").setLevel(logging.CRITICAL)
        logging.getLogger("fakesnow.server").setLevel(logging.CRITICAL)
        clock = AdvancedClock(days_ahead)
        catalog = Catalog(self.fakesnow, clock)
        aws = Aws(aws_endpoint_url, region)
        channels = Channels(aws, catalog.account, visibility_seconds + ceil(latency.high))
        access = Access(catalog, enforced=privileges)
        authority = Authority(access)
        loader = Loader(catalog, aws.client("s3"), authority)
        delivery = InOrder(latency) if seed is None else Delivery(seed, latency=latency)
        self.ingest = Ingest(catalog, loader, channels, delivery)
        roles = Roles(access)
        reading = Reading(authority)
        commands = Commands(
            access,
            authority,
            reading,
            roles,
            Pipes(catalog, loader, channels, self.ingest, authority),
            Stages(catalog, loader, authority),
            Integrations(catalog, authority),
            Databases(catalog, self.fakesnow),
            Unenforced(catalog, authority),
            Functions(catalog, channels, self.ingest, authority),
            Bulk(catalog, loader, authority),
        )
        self.app = LocalSnowflake(fakesnow_server.app, commands, catalog, clock, self.health, roles, login)
        self.server: uvicorn.Server | None = None

    def health(self) -> dict[str, object]:
        fatal = self.ingest.fatal
        return {
            "status": "failed" if fatal else "ok",
            "problem": fatal or "; ".join(self.ingest.problems.values()) or None,
            "buffered_bytes": 0 if fatal else self.fakesnow.buffered_bytes(),
        }

    def run(self, listener: socket.socket) -> int:
        config = uvicorn.Config(
            self.app, log_level="critical", access_log=False, lifespan="off", timeout_graceful_shutdown=5
        )
        self.server = Server(config)
        self.ingest.on_fatal = self.stop
        self.ingest.start()
        asyncio.run(self.server.serve(sockets=[listener]))
        self.ingest.stop()
        self.fakesnow.duck_conn.close()
        log.info("stopped")
        if self.ingest.fatal:
            print(f"local_snowflake: {self.ingest.fatal}", file=sys.stderr)
        return 1 if self.ingest.fatal else 0

    def stop(self) -> None:
        if self.server:
            self.server.should_exit = True
        else:
            sys.exit(0)
