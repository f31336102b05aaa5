"""One stack, from nothing to deployed and back."""

import shutil
from collections.abc import Callable

from ops.stack import localstack, processes
from ops.stack.settings import Settings

PARTS = ("localstack",)


class Stack:
    def __init__(self, settings: Settings, say: Callable[[str], object] = lambda line: None) -> None:
        self.settings = settings
        self._say = say

    def up(self, only: str | None = None) -> None:
        started = []
        try:
            running = processes.find(self.settings.run_folder, localstack.NAME)
            if running is None:
                started.append(localstack.launch(self.settings))
                localstack.await_ready(self.settings, started[-1])
            self._say(f"LocalStack listens on {self.settings.endpoint_url}")
        except BaseException:
            for process in started:
                processes.end(process, self.settings.run_folder)
            raise

    def stop(self) -> None:
        for process in processes.recorded(self.settings.run_folder):
            processes.end(process, self.settings.run_folder)
        localstack.wipe(self.settings)

    def down(self) -> None:
        self.stop()
        shutil.rmtree(self.settings.folder, ignore_errors=True)
