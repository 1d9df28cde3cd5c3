"""The command line in forks of a process that has imported it already: real processes to kill, without each one's
second of imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

READS = ("SELECT", "WITH", "PRAGMA", "EXPLAIN", "BEGIN", "SHOW")
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

    def start(self, *arguments: str, die_at: int = 0) -> int:
        """`die_at`: it kills itself (SIGKILL) when its main thread is about to take so many steps (see `_die_at`)."""
        assert self._mother.stdin is not None and self._mother.stdout is not None
        self._mother.stdin.write(json.dumps([die_at, "--config", str(self._config), *arguments]) + "\n")
        self._mother.stdin.flush()
        self.pid = int(self._mother.stdout.readline())
        return self.pid

    def wait(self) -> int:
        """The exit code, negative for a signal, as `subprocess` says it."""
        assert self._mother.stdout is not None
        return int(self._mother.stdout.readline())


def _die_at(step: int) -> None:
    """Be killed before the step of this number: a statement that writes, or a commit, in whichever database; counted
    from the first one that is not SQLite's on, which state is on here."""
    import signal
    import threading

    import sqlalchemy as sa

    left, counting = step, False

    def count(*arguments: Any) -> None:
        nonlocal left, counting
        statement = str(arguments[2]).lstrip() if len(arguments) > 2 else "COMMIT"
        if threading.current_thread() is threading.main_thread() and not statement.startswith(READS):
            counting = counting or (statement != "COMMIT" and arguments[0].dialect.name != "sqlite")
            left -= counting
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sa.event.listen(sa.Engine, "before_cursor_execute", count)
    sa.event.listen(sa.Engine, "commit", count)


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
            die_at, *arguments = json.loads(line)
            sys.argv = ["audience-sync", *arguments]
            if die_at:
                _die_at(die_at)
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
