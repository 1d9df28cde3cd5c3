"""A folder with a jobs.yaml, and the command line in processes of its own."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from audience_sync.cli import main
from audience_sync.receiver import Receiver


def _heed_ctrl_c() -> None:
    """Whoever runs the tests in the background has Ctrl-C ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass
class Ran:
    """What a command left: exit code and both outputs."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Project:
    """A folder with a jobs.yaml, a receiver, and the command line in a process of its own."""

    folder: Path
    receiver: Receiver
    url: str
    env: dict[str, str] = field(default_factory=dict)

    def write(self, text: str, name: str = "jobs.yaml") -> Path:
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return path

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "audience_sync", "--config", str(self.folder / "jobs.yaml"), *arguments]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "NO_COLOR": "1", "COLUMNS": "140", **self.env}

    def cli(self, *arguments: str, timeout: float = 90) -> Ran:
        done = subprocess.run(
            self.command(*arguments),
            capture_output=True,
            text=True,
            timeout=timeout,
            env=self.environment(),
            check=False,
        )
        assert "Traceback" not in done.stderr + done.stdout, done.stderr
        return Ran(done.returncode, done.stdout, done.stderr)

    def quick(self, *arguments: str) -> Ran:
        """The same entry point in this process: a tenth of the time."""
        out, err = io.StringIO(), io.StringIO()
        arguments = ("audience-sync", "--config", str(self.folder / "jobs.yaml"), *arguments)
        with (
            mock.patch.dict(os.environ, self.environment()),
            mock.patch.object(sys, "argv", list(arguments)),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            try:
                main()
            except SystemExit as stop:
                code = int(stop.code or 0)
        return Ran(code, out.getvalue(), err.getvalue())

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment(),
            preexec_fn=_heed_ctrl_c,
        )
