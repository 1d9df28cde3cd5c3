"""The command line in forks of a process that has imported it already: real processes to kill, without each one's
second of imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

PRELOADED = ("cli.run", "cli.deliver", "cli.migrate", "delivery.curl_wire", "state.schema")


class Forking:
    """`with Forking(jobs_yaml) as forking`: `start` a command, `kill` it, `wait` for its exit code."""

    def __init__(self, config: Path, env: dict[str, str]) -> None:
        self._config = config
        self._mother = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )
        self.pid = 0

    def __enter__(self) -> Forking:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._mother.stdin is not None
        self._mother.stdin.close()
        self._mother.wait(30)

    def start(self, *arguments: str) -> int:
        assert self._mother.stdin is not None and self._mother.stdout is not None
        self._mother.stdin.write(json.dumps(["--config", str(self._config), *arguments]) + "\n")
        self._mother.stdin.flush()
        self.pid = int(self._mother.stdout.readline())
        return self.pid

    def wait(self) -> int:
        """The exit code, negative for a signal, as `subprocess` says it."""
        assert self._mother.stdout is not None
        return int(self._mother.stdout.readline())


def main() -> None:
    import importlib

    for name in PRELOADED:
        importlib.import_module("audience_sync." + name)
    from audience_sync.cli import main as command_line

    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            silent = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(silent, descriptor)
            sys.argv = ["audience-sync", *json.loads(line)]
            try:
                command_line()
            except SystemExit as stop:
                os._exit(int(stop.code or 0))
            os._exit(0)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
