"""Start, repair and stop one stack."""

import contextlib
import fcntl
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from cli.counts import count
from cli.deadline import within
from cli.refusal import Refusal
from ops.stage_outputs import ROOT, Outputs
from tools.stack import console, deploy, identity, localstack, private_files, snowflake
from tools.stack.errors import LostStateError, StackError
from tools.stack.identity import Auth
from tools.stack.processes import Process, Processes
from tools.stack.settings import LOOPBACK, Settings

NEEDED_MB = 1000
ANSWERS_S = 30.0
INVENTORY_S = 5.0
# The names (or their beginnings) of files that `ops` and `snowpipe` create in the stack's folder, also for deployed
# stages, so the folder may contain them before a local stack exists.
WITHOUT_A_STACK = ("replay", "dbt", "recreate-")
# Files that a stack and its tools create in its folder; `down` removes nothing else.
MADE = re.compile(
    r"\.lock|((deployed|found|outputs)\.json|issuer\.pem)(\.new)?|warehouse-made|run|logs|home|localstack|snowflake"
    r"|replay|dbt(\.err)?|recreate-\w+\.json"
)


class Server(Protocol):
    """The interface that the modules `localstack` and `snowflake` implement."""

    TITLE: str
    READY_S: float

    def check_tools(self) -> None: ...
    def port(self, settings: Settings) -> int: ...
    def launch(self, settings: Settings, processes: Processes) -> Process: ...
    def is_ready(self, settings: Settings) -> bool: ...


SERVERS: dict[str, Server] = {localstack.NAME: localstack, snowflake.NAME: snowflake}

type Step = Callable[[str], AbstractContextManager[None]]
"""A function that is called with the name of a step and returns a context manager around the step."""


class Stack:
    """A local stack. `with Stack(Settings.of(environment)) as stack:` starts the stack and deletes it afterwards.

    `<folder>/run/` contains a record of each process, `<folder>/logs/` the output of the processes,
    `<folder>/snowflake/` the warehouse, and `<folder>/localstack/` LocalStack's files.
    `<folder>/outputs.json` contains the addresses and credentials. It exists from the end of the first `up` until
    the stack is stopped.
    """

    def __init__(self, settings: Settings, step: Step = lambda _: contextlib.nullcontext()) -> None:
        self.settings = settings
        self.processes = Processes(settings.run_folder, settings.log_folder)
        self._step = step

    @classmethod
    def of(cls, environment: Mapping[str, str], step: Step = lambda _: contextlib.nullcontext()) -> "Stack":
        return cls(Settings.of(environment), step)

    def __enter__(self) -> "Stack":
        self.up(discard=not self.is_up())  # delete the remains of a killed run, too
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def up(self, only: str | None = None, *, discard: bool = False, auth: Auth | None = None) -> list[str]:
        """Start LocalStack and the local Snowflake if they are not running, deploy everything that has changed,
        and write `outputs.json`; return notes for the user.

        A stack that was up is repaired: only dead processes are started, and nothing is deleted. Raises
        LostStateError if a dead process lost data that it held only in memory, unless `discard` is true.

        The remains of an earlier, incomplete `up` are deleted first. If this call fails or is interrupted,
        every process that it started is stopped. With `only`, only that server is started, and nothing is
        deployed. `auth` is the kind of credential that the stage requires. None keeps the current kind; for a
        new stack, it means that only the API key is required.
        """
        parts = [only] if only else list(SERVERS)
        with self._alone():
            self._refuse_another_port()
            if only and not discard and self._runs(parts):
                return []
            notes = self._replace_incomplete()
            if self.settings.outputs_file.exists() and not discard:
                return notes + self._repair(parts, deploys=not only, auth=auth)
            notes = self._clear_all() if discard else notes + self._of_before()
            self._clear()
            try:
                self._start(parts)
                if not only:
                    self._deploy(auth)
                    console.launch(self.settings, self.processes)
            except BaseException:
                self._clear()
                raise
            return notes

    def _replace_incomplete(self) -> list[str]:
        """Replace an incomplete key or password file and, if there was one, make `up` deploy again; return notes for
        the user.
        """
        notes = []
        for file, is_whole, new in (
            (identity.issuer(self.settings).private_key_file, identity.is_key, identity.new_key),
            (snowflake.password_file(self.settings), snowflake.is_password, snowflake.new_password),
        ):
            if file.exists() and not is_whole(file.read_text()):
                private_files.write(file, new())
                self._deployed_file.unlink(missing_ok=True)
                notes.append(f"{file} was incomplete and was replaced.")
                # A running warehouse accepts only the old password, so it must be started again.
                if file.parent == self.settings.snowflake_folder and (
                    process := self.processes.alive(snowflake.NAME)
                ):
                    self.processes.end(process)
        return notes

    def _repair(self, parts: list[str], *, deploys: bool, auth: Auth | None) -> list[str]:
        """Resume suspended processes, restart dead ones and, if `deploys` is true, deploy everything that has changed;
        return notes for the user.

        Raises LostStateError if LocalStack or its Kinesis mock has died, because their data was only in memory.
        """
        notes = [
            f"{each.name} (pid {each.pid}) was suspended and has been resumed."
            for each in self.processes.wake()
        ]
        lost = [name for name in (localstack.NAME, localstack.KINESIS) if self.processes.dead(name)]
        if not self.processes.alive(localstack.NAME):
            lost = [localstack.NAME]
        dead = [part for part in parts if part not in lost and not self.processes.alive(part)]
        intact = dead
        if snowflake.NAME in dead and not _holds_files(self.settings.snowflake_folder):
            intact = [part for part in dead if part != snowflake.NAME]
            notes.append(
                "The warehouse's files are gone, so the warehouse was created again. The archive is "
                "still in S3. To load it, run: milkrun warehouse backfill --from '30 days ago'"
            )
            self._deployed_file.unlink(missing_ok=True)
            self._warehouse_made_file.unlink(missing_ok=True)
        try:
            if dead:
                self._start(dead)
                notes += [
                    f"{SERVERS[part].TITLE} had died and runs again with all its data." for part in intact
                ]
            for part in parts if not lost else dead:
                self._await_answer(part)
        except BaseException:
            for part in dead:
                if process := self.processes.alive(part):
                    self.processes.end(process)
            raise
        if lost:  # the warehouse is running by now, so the message can say what it contains
            raise LostStateError(lost[0], self._left_in_the_warehouse())
        if deploys:
            self._deploy(auth)
            console.launch(self.settings, self.processes)
        return notes

    def _await_answer(self, part: str) -> None:
        """Wait until the server of `part` answers; its process may be alive but suspended by SIGSTOP. Raises StackError
        after ANSWERS_S seconds.
        """
        server, deadline = SERVERS[part], time.monotonic() + ANSWERS_S
        while not server.is_ready(self.settings):
            if time.monotonic() > deadline:
                raise StackError(
                    f"{server.TITLE} runs but has not answered for {ANSWERS_S:g} s; see "
                    f"{self.processes.log(part)}. Wait, or discard all data and start again: "
                    "milkrun up --discard"
                )
            time.sleep(0.1)

    def _left_in_the_warehouse(self) -> str:
        """Return a clause for a message to the user: the number of rows that RAW.EVENTS still contains, or that the
        warehouse does not answer.
        """
        try:
            outputs = self.outputs()
            with outputs.warehouse(int(INVENTORY_S)) as warehouse:
                sql = f"SELECT COUNT(*) AS n FROM {outputs.database}.RAW.EVENTS"
                return f"the warehouse still has {count(warehouse.query(sql)[0]['n'], 'row')} in RAW.EVENTS"
        except (Refusal, ValueError):
            return f"the warehouse does not answer; its files are in {self.settings.snowflake_folder}"

    def _of_before(self) -> list[str]:
        if not self._warehouse_made_file.exists():
            return []
        return [
            (
                "`milkrun stop` kept the warehouse but deleted the S3 objects of its rows, so `reconcile` "
                "lists these objects as not_in_s3. `milkrun down` also deletes the warehouse."
            )
        ]

    def _clear_all(self) -> list[str]:
        """Stop all processes and delete all data, including the warehouse; return notes about what was deleted."""
        gone = self.inventory()
        self._clear()
        self._warehouse_made_file.unlink(missing_ok=True)
        shutil.rmtree(self.settings.snowflake_folder, ignore_errors=True)
        return gone

    def inventory(self) -> list[str]:
        """Return notes for the user about the data that `down` and `up --discard` delete."""
        found = self._inventory_of_localstack()
        size = sum(map(_size_of, self.settings.snowflake_folder.rglob("*")))
        if size:
            found.append(f"Deleted: the warehouse, {size / 1e6:.1f} MB.")
        return found

    def _inventory_of_localstack(self) -> list[str]:
        # In a copy of the stack's folder, the outputs name the original's LocalStack, but no record names its process.
        is_ours = any(process.name == localstack.NAME for process in self.processes.recorded())
        if not is_ours or not self.settings.outputs_file.exists():
            return []
        return [f"Deleted: {self._objects_in_words()}, the stream, the visits and the queues."]

    def _objects_in_words(self) -> str:
        def number() -> int:
            outputs = self.outputs()
            pages = (
                outputs.aws("s3", attempts=1).get_paginator("list_objects_v2").paginate(Bucket=outputs.bucket)
            )
            return sum(page["KeyCount"] for page in pages)

        try:
            return f"{count(within(INVENTORY_S, number, 'S3'), 'object')} in S3"
        except Exception:  # the number is only informative, and AWS may have died
            return "all objects in S3 (not counted, because S3 does not answer)"

    def stop(self) -> list[str]:
        """Stop all processes, delete LocalStack's data, and keep Snowflake's files; return notes about what
        was deleted.
        """
        gone = self._inventory_of_localstack()
        if self.settings.folder.exists():
            with self._alone(), self._step("Stopping the stack"):
                self._clear()
        return gone

    def down(self) -> list[str]:
        """Stop all processes and delete the stack's files; return notes about what was deleted and what was kept."""
        gone = self.inventory()
        folder = self.settings.folder
        if not folder.exists():
            return gone
        with self._alone(), self._step("Stopping the stack"):
            self._clear()
            inside = sorted(folder.iterdir())
            for path in inside:
                if not MADE.fullmatch(path.name) or path == self._lock_file:
                    continue
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()
            made = [path for path in inside if MADE.fullmatch(path.name) and path != self._lock_file]
            if not any(path.exists() for path in made):  # otherwise `down` needs it to accept the folder
                self._lock_file.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                folder.rmdir()
        kept = [path.name for path in inside if not MADE.fullmatch(path.name)]
        return gone + (
            [f"Kept in {folder}, because the stack did not create these files: {', '.join(kept)}"]
            if kept
            else []
        )

    def is_up(self) -> bool:
        return self.settings.outputs_file.exists() and self._runs(list(SERVERS))

    def console(self) -> str:
        """Start the stack's console if it is not running; return the console's URL as soon as the console answers."""
        with self._alone():
            self._refuse_another_port()
            if not self.is_up():
                raise StackError("No stack is running here. Run: make up")
            process = console.launch(self.settings, self.processes)
        if process is None:
            raise StackError(
                f"Another program uses the console's port {self.settings.console_port}. Stop that "
                "program, or choose another port: milkrun console --port <port>"
            )
        deadline = time.monotonic() + console.READY_S
        while not console.is_ready(self.settings):
            if not process.is_alive() or time.monotonic() > deadline:
                raise StackError(f"The console did not start; see {self.processes.log(console.NAME)}")
            time.sleep(0.1)
        return self.settings.console_url

    def outputs(self) -> Outputs:
        return Outputs.read(self.settings.outputs_file)

    def _runs(self, parts: list[str]) -> bool:
        return all(self.processes.alive(part) and SERVERS[part].is_ready(self.settings) for part in parts)

    def _refuse_another_port(self) -> None:
        """Raise StackError if the stack runs on another port, because the user has probably forgotten to set
        MILKRUN_PORT.
        """
        try:
            port = urlsplit(json.loads(self.settings.outputs_file.read_text())["aws_endpoint_url"]).port
        except (OSError, ValueError, KeyError):
            return
        if port != self.settings.port and any(self.processes.alive(part) for part in SERVERS):
            raise StackError(
                f"The stack in {self.settings.folder} runs on port {port}. Set MILKRUN_PORT={port} "
                "to use it, run `make down` to stop it, or also set MILKRUN_LOCAL=<folder> to "
                "run a second stack."
            )

    def _refuse_what_is_not_ours(self) -> None:
        """Raise StackError if the folder contains files that are not the stack's, because `down` deletes
        files there and the folder may be a home folder.
        """
        folder = self.settings.folder
        # Accept a folder of this clone, such as one that `make bench` left.
        if folder.parent == ROOT and folder.name.startswith(".local"):
            return
        inside = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        foreign = self._lock_file.name not in inside and any(
            not name.startswith(WITHOUT_A_STACK) for name in inside
        )
        if ROOT.is_relative_to(folder) or foreign:
            raise StackError(
                f"{folder} contains other files. Set MILKRUN_LOCAL to a folder that only this stack uses."
            )

    def _clear(self) -> None:
        """Stop all processes; delete LocalStack's data, and the warehouse's files if the warehouse was never
        completely created.
        """
        self.settings.outputs_file.unlink(missing_ok=True)
        self._deployed_file.unlink(missing_ok=True)
        identity.issuer(self.settings).private_key_file.unlink(missing_ok=True)
        self.processes.end_all()
        shutil.rmtree(self.settings.localstack_folder, ignore_errors=True)
        if not self._warehouse_made_file.exists():
            shutil.rmtree(self.settings.snowflake_folder, ignore_errors=True)

    def _start(self, parts: list[str]) -> None:
        self._check(parts)
        with self._step(f"Starting {' and '.join(SERVERS[part].TITLE for part in parts)}"):
            started = [(SERVERS[part], SERVERS[part].launch(self.settings, self.processes)) for part in parts]
            for server, process in started:
                self._await_ready(server, process)

    def _await_ready(self, server: Server, process: Process) -> None:
        deadline, log = time.monotonic() + server.READY_S, self.processes.log(process.name)
        while not server.is_ready(self.settings):
            if not process.is_alive():
                raise StackError(f"{server.TITLE} exited during startup; the reason is in {log}")
            if time.monotonic() > deadline:
                raise StackError(f"{server.TITLE} was not ready after {server.READY_S:g} s; see {log}")
            time.sleep(0.1)

    def _check(self, parts: list[str]) -> None:
        free_mb = shutil.disk_usage(self.settings.folder).free // 1_000_000
        if free_mb < NEEDED_MB:
            raise StackError(
                f"Not enough free disk space: {free_mb} MB free, {NEEDED_MB} MB needed. Free some space and try again."
            )
        for part in parts:
            SERVERS[part].check_tools()
            port = SERVERS[part].port(self.settings)
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((LOOPBACK, port))
                except OSError:
                    raise StackError(
                        f"Another program uses {SERVERS[part].TITLE}'s port {port}. Stop that program (if it is "
                        "another stack, run `make down` there), or use other ports: MILKRUN_PORT=<base>."
                    ) from None

    def _deploy(self, auth: Auth | None) -> None:
        auth = auth or identity.current(self.settings)
        wanted, done = deploy.wanted(auth), self._deployed()
        if done == wanted and self.settings.outputs_file.exists():
            return
        self._deployed_file.unlink(missing_ok=True)
        if done.get("functions") != wanted["functions"]:
            with self._step("Deploying the functions and their AWS resources"):
                deploy.deploy_functions(self.settings, self.processes, auth)
        deploy.write(deploy.outputs(self.settings, auth), self._found_file)
        with self._step("Creating the warehouse's objects"):
            deploy.apply_ddl(self.settings, self.processes, self._found_file)
        self._warehouse_made_file.touch()
        self._found_file.replace(self.settings.outputs_file)
        deploy.write(wanted, self._deployed_file)
        running = self.processes.alive(localstack.NAME)
        if running and (mock := localstack.kinesis_mock(running)):
            self.processes.adopt(localstack.KINESIS, mock)

    @property
    def _lock_file(self) -> Path:
        return self.settings.folder / ".lock"

    @property
    def _deployed_file(self) -> Path:
        return self.settings.folder / "deployed.json"

    @property
    def _warehouse_made_file(self) -> Path:
        return self.settings.folder / "warehouse-made"

    @property
    def _found_file(self) -> Path:
        """Return the path of the temporary outputs file, which is used until the stack is up."""
        return self.settings.folder / "found.json"

    def _deployed(self) -> dict[str, str]:
        try:
            found: dict[str, str] = json.loads(self._deployed_file.read_text())
        except (OSError, ValueError):
            return {}
        return found

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._refuse_what_is_not_ours()
        self.settings.folder.mkdir(parents=True, exist_ok=True)
        self.settings.folder.chmod(0o700)  # outputs and logs contain credentials and personal data
        with self._lock_file.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not os.fstat(lock.fileno()).st_nlink:
                    raise BlockingIOError  # `down` has deleted the file since it was opened
            except BlockingIOError:
                raise StackError(
                    "Another command is using this stack. Wait for it, or interrupt it."
                ) from None
            yield


def _size_of(path: Path) -> int:
    """Return a file's size in bytes; 0 for a folder, and for a file that the running warehouse has just deleted."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:
        return 0


def _holds_files(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())
