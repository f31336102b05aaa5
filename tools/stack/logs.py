"""Print the last log lines of the functions and servers and, with `follow`, new lines as they arrive."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from rich.console import Console

from tools.stack.errors import StackError
from tools.stack.settings import Settings

COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "bright_red")
ONLY_IF_NAMED = ("deploy", "apply")  # logs of steps of `up`, which prints the error of a failed step
TAIL_BYTES = 256 * 1024
LOOK_AGAIN_S = 0.3


def sources(settings: Settings, names: Sequence[str]) -> list[Path]:
    """Return the log files with these names, or all log files except those of `deploy` and `apply` if no name
    is given. The prefix `milkrun-local-` of a function's log may be omitted.
    """
    files = _existing(settings)
    chosen = _chosen(files, names)
    if not chosen or not all(any(_is_named(f, name) for f in files) for name in names):
        there = ", ".join(file.stem for file in files) or "none yet"
        raise StackError(f"There is no matching log in {settings.log_folder}. Existing logs: {there}.")
    return chosen


def _existing(settings: Settings) -> list[Path]:
    files = [*sorted(settings.lambda_log_folder.glob("*.log")), *sorted(settings.log_folder.glob("*.log"))]
    return [file for file in files if not file.name.endswith(".1.log")]


def _chosen(files: Sequence[Path], names: Sequence[str]) -> list[Path]:
    if not names:
        return [file for file in files if file.stem not in ONLY_IF_NAMED]
    return [file for file in files if any(_is_named(file, name) for name in names)]


def _is_named(file: Path, name: str) -> bool:
    return file.stem == name or file.stem.endswith(f"-{name}")


def show(settings: Settings, names: Sequence[str], lines: int, follow: bool, console: Console) -> None:
    """Print the last `lines` lines of each log file of `sources`, with the file's name before each line. With `follow`,
    then print new lines until interrupted. These include the lines of logs that are created meanwhile, for example
    by a function that runs for the first time.
    """
    tails = [_Tail(file, lines) for file in sources(settings, names)]
    width = max(len(tail.file.stem) for tail in tails)

    def write(number: int, text: Sequence[str]) -> None:
        colour, name = COLOURS[number % len(COLOURS)], tails[number].file.stem
        for line in text:
            console.print(f"[{colour}]{name:<{width}}[/] ", end="", soft_wrap=True)
            console.print(line, markup=False, soft_wrap=True)

    for number, tail in enumerate(tails):
        existing = tail.read() + ([] if follow else tail.unfinished())
        write(number, existing[max(0, len(existing) - lines) :])
    while follow:
        time.sleep(LOOK_AGAIN_S)
        known = {tail.file for tail in tails}
        new = [file for file in _chosen(_existing(settings), names) if file not in known]
        tails += [_Tail(file, sys.maxsize) for file in new]
        for number, tail in enumerate(tails):
            write(number, tail.read())


class _Tail:
    """A reader that returns the complete lines added to a file since the last read, even if the log was
    rotated, or emptied because its process was started again. The first read returns at least the last `lines`
    lines.
    """

    def __init__(self, file: Path, lines: int = 0) -> None:
        self.file = file
        self._open: IO[bytes] = file.open("rb")
        start, breaks = file.stat().st_size, 0
        while start and breaks <= lines:
            end, start = start, max(0, start - TAIL_BYTES)
            self._open.seek(start)
            breaks += self._open.read(end - start).count(b"\n")
        self._open.seek(start)
        self._rest = b""

    def unfinished(self) -> list[str]:
        """Return the last line if no line feed follows it, for example because its process was killed."""
        return [self._rest.decode(errors="replace")] if self._rest else []

    def read(self) -> list[str]:
        if os.fstat(self._open.fileno()).st_size < self._open.tell():
            self._open.seek(0)
            self._rest = b""
        found = self._rest + self._open.read()
        if self.file.exists() and self.file.stat().st_ino != self._inode():
            self._open.close()
            self._open = self.file.open("rb")
            found += self._open.read()
        *whole, self._rest = found.split(b"\n")
        # Lambda's runtime writes a traceback as one event, with carriage returns between its lines.
        return [part for line in whole for part in line.decode(errors="replace").split("\r") if part]

    def _inode(self) -> int:
        return os.fstat(self._open.fileno()).st_ino
