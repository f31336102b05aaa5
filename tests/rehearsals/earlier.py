"""Unpack Milkrun's version of 2026-11-23 from the repository's history.

Its commands run in this clone's Python environments and with this clone's node_modules.
"""

import io
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from ops.osls import alone
from ops.stage_outputs import ROOT

COMMIT = "e556c79"  # the last commit of 2026-11-23


@dataclass(frozen=True)
class Earlier:
    """An earlier version of Milkrun: its folder, and the environment for its commands."""

    folder: Path
    environment: Mapping[str, str]

    @classmethod
    def unpack(cls, folder: Path, environment: Mapping[str, str]) -> "Earlier":
        packed = subprocess.run(["git", "archive", COMMIT], cwd=ROOT, capture_output=True, check=False)
        if packed.returncode:
            pytest.skip(f"the clone has no commit {COMMIT}")
        with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as files:
            files.extractall(folder, filter="data")
        for name in (".venv", ".venvs", "node_modules"):
            (folder / name).symlink_to(ROOT / name)
        # The earlier packaging has no option for the certificates of company proxies, so set uv's variable.
        return cls(folder, {**environment, "UV_SYSTEM_CERTS": "true"})

    def osls(self, *arguments: str) -> None:
        with alone():
            self._run(self.folder / "node_modules" / ".bin" / "osls", *arguments)

    def python(self, *arguments: str | Path) -> None:
        self._run(sys.executable, "-m", *arguments)

    def _run(self, *command: str | Path) -> None:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
